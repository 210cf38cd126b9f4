package client

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// Authenticate replaces the token in place (PROTOCOL §5.3). Subscriptions that
// the new token does not permit end; the others never notice. If the broker
// refuses it, the old one stays in force, and the error is the refusal. Without a
// connection it returns at once: the token is the one that the next attempt shows,
// unless there is Config.GetToken, with which nobody needs to call it.
func (c *Client) Authenticate(ctx context.Context, token string) error {
	if err := checkToken(token); err != nil {
		return err
	}
	// Of calls at once, and beside a new connection, the last one to get here counts.
	c.mu.Lock()
	conn := c.current
	if conn == nil {
		c.token = token
		c.mu.Unlock()
		return c.Err()
	}
	q := conn.putToken(token)
	c.mu.Unlock()
	_, err := conn.await(ctx, q)
	return err
}

func checkToken(token string) error {
	if len(token) > codec.MaxToken {
		return codec.Errorf(codec.CodeUnauthorized, "the token is longer than %d bytes", codec.MaxToken)
	}
	return nil
}

// putToken queues AUTH. Its answer is taken note of in the order in which answers come,
// which is that of the tokens in force.
func (n *connection) putToken(token string) question {
	q := question{answer: make(chan answer, 1)}
	q.number = n.ask(func(a answer) {
		if auth, ok := a.frame.(codec.Authenticated); ok {
			n.client.mu.Lock()
			n.client.token = token
			n.client.mu.Unlock()
			n.given(n.moment(auth.Expires))
		}
		if a.err != nil {
			n.client.log.Debug("a token was not taken", slog.Any("error", a.err))
		}
		q.answer <- a
	})
	n.send(codec.AppendAuth(nil, codec.Auth{Number: q.number, Token: token}))
	return q
}

// authenticate sends AUTH and returns when the new token expires; the zero time if
// it does not.
func (n *connection) authenticate(ctx context.Context, token string) (expires time.Time, err error) {
	if err := checkToken(token); err != nil {
		return time.Time{}, err
	}
	frame, err := n.await(ctx, n.putToken(token))
	if err != nil {
		return time.Time{}, err
	}
	if a, ok := frame.(codec.Authenticated); ok {
		expires = n.moment(a.Expires)
	}
	return expires, nil
}

// given takes note of when the token expires that the broker has taken last. It is called
// by the reader of the control stream only.
func (n *connection) given(expires time.Time) {
	for {
		select {
		case n.tokens <- expires:
			return
		default:
		}
		select {
		case <-n.tokens: // one that was given before
		default:
		}
	}
}

// moment is a time of the broker; the zero time if it is not set.
func (n *connection) moment(ms codec.Optional) time.Time {
	if !ms.Set {
		return time.Time{}
	}
	return n.base.Add(millis(ms.Value))
}

// millis is a number of milliseconds as a duration, of 292 years at most.
func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

// noticed takes a NOTICE.
func (n *connection) noticed(notice codec.Notice) {
	n.client.log.Debug("notice of the broker", slog.String("code", notice.Code.String()), slog.String("reason", notice.Reason))
	if f := n.client.config.OnNotice; f != nil {
		f(Notice{Code: notice.Code, Reason: notice.Reason, Deadline: n.moment(notice.Deadline)})
	}
	if notice.Code == codec.CodeTokenExpired {
		select {
		case n.notices <- struct{}{}:
		default:
		}
	}
}

// clockSkew is how long a token lasts at least in the eyes of the client: where its
// clock is ahead of the broker's, every token seems to have expired. The broker's
// NOTICE comes in time in any case.
const clockSkew = 30 * time.Second

// keepToken replaces the token before it expires, and when the broker asks for it.
func (n *connection) keepToken() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	expires := n.moment(n.welcome.Expires)
	for {
		timer.Stop()
		if !expires.IsZero() {
			rest := time.Until(expires)
			if rest <= 0 {
				rest = clockSkew
			}
			timer.Reset(rest/10*8 - rand.N(rest/10+1))
		}
		select {
		case <-timer.C:
		case <-n.notices:
		case expires = <-n.tokens:
			continue
		case <-n.ctx.Done():
			return
		}
		// Where the source says that there is none, the session ends with the token,
		// unless the source has another answer when the broker asks for it.
		expires = n.renew()
		select {
		case <-n.notices: // told of the token before
		default:
		}
	}
}

// renew asks for a token until the broker takes one, and returns when that expires:
// the zero time if never, and if there is no use in asking.
func (n *connection) renew() (expires time.Time) {
	for attempt := 0; ; attempt++ {
		token, err := n.client.config.GetToken(n.ctx)
		if err != nil && noUse(err) {
			return time.Time{}
		}
		if err == nil {
			// What the broker refuses may have been an old one, out of a cache.
			if expires, err = n.authenticate(n.ctx, token); err == nil {
				return expires
			}
		}
		n.client.log.Debug("no new token yet", slog.Any("error", err))
		select {
		case <-time.After(n.client.config.Backoff.wait(attempt, 0)):
		case <-n.ctx.Done():
			return time.Time{}
		}
	}
}

// noUse reports whether an error says that the same again is of no use.
func noUse(err error) bool {
	e, coded := errors.AsType[*Error](err)
	return coded && !e.Code.Temporary()
}
