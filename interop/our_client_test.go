package interop

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// clientSide is what our client does in a case, once the session is open. It
// closes the session afterwards.
type clientSide func(ctx context.Context, session *wt.Session, r *report) error

// tries has the cases in which the client does more than open a session.
var tries = map[string]clientSide{
	"bidi": func(ctx context.Context, session *wt.Session, _ *report) error {
		if err := exchange(ctx, session, []byte(textUp)); err != nil {
			return err
		}
		return echoOne(ctx, session)
	},
	"uni": func(ctx context.Context, session *wt.Session, _ *report) error {
		return exchangeUni(ctx, session, []byte("one way"))
	},
	"megabyte": func(ctx context.Context, session *wt.Session, _ *report) error {
		return exchange(ctx, session, bytes.Repeat([]byte("0123456789abcdef"), megabyte/16))
	},
	"streams": func(ctx context.Context, session *wt.Session, r *report) (err error) {
		r.Count, err = manyStreams(ctx, session)
		return err
	},
	"server-streams": func(ctx context.Context, session *wt.Session, r *report) error {
		return echo(ctx, session, r)
	},
	"turnover": func(ctx context.Context, session *wt.Session, r *report) error {
		for ; r.Count < turnover; r.Count++ {
			if err := exchangeUni(ctx, session, fmt.Appendf(nil, "stream %d", r.Count)); err != nil {
				return err
			}
		}
		return nil
	},
	"datagrams": func(ctx context.Context, session *wt.Session, r *report) error {
		for i := range datagrams {
			b := bytes.Repeat([]byte{byte(i)}, i+1)
			if err := session.SendDatagram(ctx, b); err != nil {
				return err
			}
			late, cancel := context.WithTimeout(ctx, datagramTimeout)
			got, err := session.ReceiveDatagram(late)
			cancel()
			if err == nil && bytes.Equal(got, b) {
				r.Count++
			}
		}
		return nil
	},
	"reset-by-client": func(ctx context.Context, session *wt.Session, _ *report) error {
		return eachOpened(ctx, session, func(stream *wt.Stream, code uint32) error {
			stream.CancelWrite(code)
			_, err := io.ReadAll(stream)
			return err
		})
	},
	"reset-by-server": func(ctx context.Context, session *wt.Session, r *report) error {
		return eachOpened(ctx, session, func(stream *wt.Stream, _ uint32) error {
			if _, err := stream.Write([]byte{2}); err != nil {
				return err
			}
			_, err := stream.Read(make([]byte, 1))
			return r.note(err)
		})
	},
	"stop-by-client": func(ctx context.Context, session *wt.Session, _ *report) error {
		return eachOpened(ctx, session, func(stream *wt.Stream, code uint32) error {
			stream.CancelRead(code)
			seen, err := session.AcceptUniStream(ctx)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(seen)
			return err
		})
	},
	"stop-by-server": func(ctx context.Context, session *wt.Session, r *report) error {
		return eachOpened(ctx, session, func(stream *wt.Stream, _ uint32) error {
			if _, err := stream.Write([]byte{2}); err != nil {
				return err
			}
			select {
			case <-stream.Context().Done():
			case <-ctx.Done():
			}
			_, err := stream.Write([]byte{0})
			return r.note(err)
		})
	},
	"close-by-client": func(_ context.Context, session *wt.Session, _ *report) error {
		return session.CloseWithError(clientCode, clientReason)
	},
	"close-by-server": func(ctx context.Context, session *wt.Session, r *report) error {
		// The end of the stream may be seen before that of the session.
		if err := say(ctx, session, "now"); err != nil && !errors.Is(err, wt.ErrSessionClosed) {
			return err
		}
		select {
		case <-session.Context().Done():
			r.Closed = endOf(context.Cause(session.Context()))
			return nil
		case <-ctx.Done():
			return errors.New("the session did not end")
		}
	},
	"drain-by-server": func(ctx context.Context, session *wt.Session, r *report) error {
		if err := say(ctx, session, "now"); err != nil {
			return err
		}
		select {
		case <-session.Draining():
			r.Drained = true
		case <-session.Context().Done():
		case <-ctx.Done():
		}
		return nil
	},
	"drain-by-client": func(ctx context.Context, session *wt.Session, _ *report) error {
		return errors.Join(session.Drain(), exchange(ctx, session, []byte("to the end")))
	},
}

// try has our client try a case with the server at addr.
func try(ctx context.Context, c testCase, addr, hash string, dialer wt.Dialer) report {
	r := report{Case: c.name}
	if err := tryCase(ctx, c, addr, hash, dialer, &r); err != nil {
		r.Error = err.Error()
	}
	return r
}

func tryCase(ctx context.Context, c testCase, addr, hash string, dialer wt.Dialer, r *report) error {
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	trusted, err := hex.DecodeString(hash)
	if err != nil || len(trusted) != 32 {
		return fmt.Errorf("hash %q", hash)
	}
	dialer.CertificateHashes = [][32]byte{[32]byte(trusted)}
	dialer.Subprotocols = offered
	session, err := dialer.Dial(ctx, "https://"+addr+"/"+c.name)
	var rejected *wt.RejectedError
	if errors.As(err, &rejected) {
		r.Status = rejected.Status
		return nil
	}
	if err != nil {
		return err
	}
	r.Draft, r.Subprotocol = session.Draft().String(), session.Subprotocol()
	if side := tries[c.name]; side != nil {
		err = side(ctx, session, r)
	}
	return errors.Join(err, session.Close())
}

// say sends a text on a stream of its own.
func say(ctx context.Context, session *wt.Session, text string) error {
	stream, err := session.OpenUniStream(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stream, text); err != nil {
		return err
	}
	return stream.Close()
}

// exchange sends b on a new stream and wants it back.
func exchange(ctx context.Context, session *wt.Session, b []byte) error {
	stream, err := session.OpenStream(ctx)
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	sent := make(chan error, 1)
	sending.Go(func() {
		_, err := stream.Write(b)
		sent <- errors.Join(err, stream.Close())
	})
	got, err := io.ReadAll(stream)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(b))
	}
	sending.Wait()
	return errors.Join(err, <-sent)
}

// exchangeUni sends b on a new stream and wants it back on one of the server's.
func exchangeUni(ctx context.Context, session *wt.Session, b []byte) error {
	stream, err := session.OpenUniStream(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	back, err := session.AcceptUniStream(ctx)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(back)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("got %q, want %q", got, b)
	}
	return err
}

// askEcho writes text, and ends the stream when it has come back.
func askEcho(stream *wt.Stream, text string) error {
	if _, err := io.WriteString(stream, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(stream, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return stream.Close()
}

// manyStreams has all streams open at once: each is begun before one of them is
// ended. It returns how many were echoed.
func manyStreams(ctx context.Context, session *wt.Session) (int, error) {
	streams := make([]*wt.Stream, streamCount)
	for i := range streams {
		stream, err := session.OpenStream(ctx)
		if err != nil {
			return 0, fmt.Errorf("stream %d: %w", i, err)
		}
		if _, err := stream.Write([]byte{byte(i)}); err != nil {
			return 0, fmt.Errorf("stream %d: %w", i, err)
		}
		streams[i] = stream
	}
	count := 0
	for i, stream := range streams {
		b := bytes.Repeat([]byte{byte(i)}, streamSize)
		if _, err := stream.Write(b[1:]); err != nil {
			return count, fmt.Errorf("stream %d: %w", i, err)
		}
		if err := stream.Close(); err != nil {
			return count, fmt.Errorf("stream %d: %w", i, err)
		}
		got, err := io.ReadAll(stream)
		if err != nil {
			return count, fmt.Errorf("stream %d: %w", i, err)
		}
		if !bytes.Equal(got, b) {
			return count, fmt.Errorf("stream %d: echo of %d bytes differs", i, len(got))
		}
		count++
	}
	return count, nil
}

// eachOpened opens a stream for each code, has a byte echoed on it, and calls f.
func eachOpened(ctx context.Context, session *wt.Session, f func(*wt.Stream, uint32) error) error {
	for _, code := range streamCodes {
		stream, err := session.OpenStream(ctx)
		if err != nil {
			return err
		}
		_ = stream.SetDeadline(time.Now().Add(caseTimeout))
		if _, err := stream.Write([]byte{1}); err != nil {
			return err
		}
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			return err
		}
		if err := f(stream, uint32(code)); err != nil {
			return fmt.Errorf("code %d: %w", code, err)
		}
	}
	return nil
}
