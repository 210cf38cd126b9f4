package client_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// datedTokens is an authenticator whose tokens name the second of their end.
type datedTokens struct{}

func (datedTokens) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	end, err := strconv.ParseInt(c.Token, 10, 64)
	return minute{time.Unix(end, 0)}, err
}

// until returns a token that lasts so long from now on.
func until(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }

// A token that the broker does not take, such as one from a cache, is asked for again,
// before the session notices.
func TestTokenThatIsRefusedIsAskedForAgain(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: datedTokens{}}, func(t *testing.T, w *world) {
		asked := 0
		c := w.dial(func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) {
				asked++
				switch asked {
				case 2:
					return until(-time.Minute), nil
				case 3:
					return "no token at all", nil
				case 4:
					return strings.Repeat("9", codec.MaxToken+1), nil
				}
				return until(time.Minute), nil
			}
			c.OnState = func(s client.State, err error) {
				if s == client.StateDisconnected {
					t.Errorf("disconnected: %v", err)
				}
			}
		})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if asked < 9 || asked > 12 {
			t.Errorf("asked %d times", asked)
		}
		_ = c.Close() // before the broker ends, which would be a disconnection
	})
}

// A token that is given by hand is the one that is replaced in time.
func TestTokenByHandIsReplacedInTime(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: datedTokens{}}, func(t *testing.T, w *world) {
		var asked atomic.Int32
		c := w.dial(func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) {
				if asked.Add(1) > 1 {
					return until(time.Hour), nil
				}
				return until(time.Minute), nil
			}
		})
		for _, d := range []time.Duration{2 * time.Minute, time.Hour} {
			if err := c.Authenticate(t.Context(), until(d)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(41 * time.Minute)
		synctest.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times while the token had an hour", n)
		}
		time.Sleep(8 * time.Minute)
		synctest.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times when four fifths of the hour were over", n)
		}
	})
}

// So is one that is given while a connection is being made.
func TestTokenByHandDuringAnAttempt(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: datedTokens{}}, func(t *testing.T, w *world) {
		var asked atomic.Int32
		var dialing chan struct{} // nil: nobody waits
		c := w.dial(func(c *client.Config) {
			c.GetToken = func(context.Context) (string, error) {
				asked.Add(1)
				return until(time.Minute), nil
			}
			c.Dial = func(ctx context.Context, url string) (client.Conn, error) {
				if dialing != nil {
					<-dialing
				}
				return w.connect(ctx, url)
			}
		})
		dialing = make(chan struct{})
		w.cut()
		w.heal()
		time.Sleep(5 * time.Second) // the attempt waits
		if err := c.Authenticate(t.Context(), until(time.Hour)); err != nil {
			t.Fatal(err)
		}
		close(dialing)
		w.connected(c)
		time.Sleep(40 * time.Minute)
		synctest.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times while the token had an hour", n)
		}
	})
}

// A token that lasts for ages is not asked for all the time.
func TestTokenThatLastsForAges(t *testing.T) {
	for _, years := range []int64{60, 100, 250, 8000} {
		inWorld(t, broker.Config{Authenticator: datedTokens{}}, func(t *testing.T, w *world) {
			asked := 0
			c := w.dial(func(c *client.Config) {
				c.GetToken = func(ctx context.Context) (string, error) {
					if asked++; asked > 100 {
						<-ctx.Done()
					}
					return strconv.FormatInt(time.Now().Unix()+years*365*24*3600, 10), nil
				}
			})
			time.Sleep(time.Hour)
			synctest.Wait()
			if asked > 1 {
				t.Errorf("asked %d times for a token of %d years", asked, years)
			}
			_ = c.Close()
		})
	}
}

// A token that is given without a connection is shown on the next one, also where that is
// being made already.
func TestAuthenticateWhileOffline(t *testing.T) {
	inWorld(t, broker.Config{Authenticator: datedTokens{}}, func(t *testing.T, w *world) {
		wait := make(chan struct{})
		close(wait)
		c := w.dial(func(c *client.Config) {
			c.Token = until(time.Minute)
			c.Dial = func(ctx context.Context, url string) (client.Conn, error) {
				<-wait
				return w.connect(ctx, url)
			}
			c.ConnectTimeout = time.Hour
		})
		w.cut()
		time.Sleep(2 * time.Minute) // the first token has expired
		synctest.Wait()
		if err := c.Authenticate(t.Context(), until(time.Minute)); err != nil {
			t.Fatalf("without a connection: %v", err)
		}
		w.heal()
		w.connected(c)

		wait = make(chan struct{})
		w.cut()
		w.heal()
		time.Sleep(30 * time.Second) // the attempt waits, with the second token
		if err := c.Authenticate(t.Context(), until(time.Hour)); err != nil {
			t.Fatalf("while connecting: %v", err)
		}
		close(wait)
		w.connected(c)
		time.Sleep(10 * time.Minute)
		if c.State() != client.StateConnected {
			t.Errorf("the client is %s: %v", c.State(), c.Err())
		}
		if err := c.Authenticate(t.Context(), strings.Repeat("9", codec.MaxToken+1)); codec.CodeOf(err) != codec.CodeUnauthorized {
			t.Errorf("a token that is too long: %v", err)
		}
		_ = c.Close()
		if err := c.Authenticate(t.Context(), until(time.Hour)); codec.CodeOf(err) != codec.CodeClosed {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Of two tokens that are given at once the one that the broker took last is shown to the
// next broker.
func TestTokensGivenAtOnce(t *testing.T) {
	inWorld(t, broker.Config{}, func(t *testing.T, w *world) {
		var shown, told atomic.Value // by HELLO, and by AUTH last
		c := w.dial(seeing(func(f codec.Frame) {
			switch f.Type {
			case codec.TypeHello:
				if h, err := codec.ParseHello(f); err == nil {
					shown.Store(h.Token)
				}
			case codec.TypeAuth:
				if a, err := codec.ParseAuth(f); err == nil {
					told.Store(a.Token)
				}
			}
		}))
		for round := range 50 {
			w.network.Gate = make(chan struct{})
			w.network.Shut.Store(true)
			done := make(chan error)
			const tokens = 8
			for i := range tokens {
				go func() { done <- c.Authenticate(t.Context(), fmt.Sprint("token ", i)) }()
			}
			synctest.Wait()
			w.network.Shut.Store(false)
			close(w.network.Gate)
			for range tokens {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			w.cut()
			last := told.Load()
			w.heal()
			w.connected(c)
			if shown.Load() != last {
				t.Fatalf("round %d: the broker had %q, and was shown %q then", round, last, shown.Load())
			}
		}
	})
}
