package interop

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// serveSide is what our server does in a case, once the session is open. The
// session's end follows.
type serveSide func(ctx context.Context, session *wt.Session, r *report) error

// serves has the cases in which the server does more than echo.
var serves = map[string]serveSide{
	"bidi": func(ctx context.Context, session *wt.Session, _ *report) error {
		if err := echoOne(ctx, session); err != nil {
			return err
		}
		stream, err := session.OpenStream(ctx)
		if err != nil {
			return err
		}
		return askEcho(stream, textDown)
	},
	"server-streams": func(ctx context.Context, session *wt.Session, r *report) (err error) {
		r.Count, err = manyStreams(ctx, session)
		return errors.Join(err, session.Close())
	},
	"reset-by-client": func(ctx context.Context, session *wt.Session, r *report) error {
		return eachStream(ctx, session, func(stream *wt.Stream) error {
			_, err := stream.Read(make([]byte, 1))
			return errors.Join(r.note(err), closeStream(stream))
		})
	},
	"reset-by-server": func(ctx context.Context, session *wt.Session, _ *report) error {
		codes := streamCodes
		return eachStream(ctx, session, func(stream *wt.Stream) error {
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				return err
			}
			stream.CancelWrite(uint32(codes[0]))
			codes = codes[1:]
			return nil
		})
	},
	"stop-by-client": func(ctx context.Context, session *wt.Session, r *report) error {
		return eachStream(ctx, session, func(stream *wt.Stream) error {
			select {
			case <-stream.Context().Done():
			case <-ctx.Done():
			}
			_, err := stream.Write([]byte{0})
			var ended *wt.StreamError
			if errors.Is(err, wt.ErrSessionClosed) || errors.As(err, &ended) && !ended.IsApplication() {
				return nil // it is the session's end that stops the stream
			}
			return errors.Join(r.note(err), say(ctx, session, "seen"))
		})
	},
	"stop-by-server": func(ctx context.Context, session *wt.Session, _ *report) error {
		codes := streamCodes
		return eachStream(ctx, session, func(stream *wt.Stream) error {
			if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
				return err
			}
			stream.CancelRead(uint32(codes[0]))
			codes = codes[1:]
			return closeStream(stream)
		})
	},
	"close-by-server": func(_ context.Context, session *wt.Session, _ *report) error {
		return session.CloseWithError(serverCode, serverReason)
	},
	"drain-by-client": func(ctx context.Context, session *wt.Session, r *report) error {
		err := echo(ctx, session, r) // the session goes on
		select {
		case <-session.Draining():
			r.Drained = true
		default:
		}
		return err
	},
}

// closeStream ends the sending side. A client that is through with the stream may
// have dropped it already, and so stopped what we send, or have closed the session if
// it was the last one.
func closeStream(stream *wt.Stream) error {
	err := stream.Close()
	var stopped *wt.StreamError
	if errors.As(err, &stopped) && stopped.Remote || errors.Is(err, wt.ErrSessionClosed) {
		return nil
	}
	return err
}

// ourServer is our server for one case.
type ourServer struct {
	server  *wt.Server
	addr    string
	hash    string
	reports chan report // of one session
	work    sync.WaitGroup
}

// serve starts our server for a case until the test ends.
func serve(t *testing.T, c testCase) *ourServer {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	hash := identity.Hash()
	s := &ourServer{hash: hex.EncodeToString(hash[:]), reports: make(chan report, 1)}
	s.server, err = wt.NewServer(wt.ServerConfig{
		TLSConfig:    identity.TLSConfig(),
		Subprotocols: known,
		// The page of a browser has another origin.
		CheckOrigin:    func(*wt.Request) bool { return true },
		MaxSessionData: 64 << 10, // where flow control is negotiated
		Handler:        wt.HandlerFunc(func(ctx context.Context, r *wt.Request) { s.handle(ctx, r, c) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = packets.LocalAddr().String()
	s.work.Go(func() { _ = s.server.Serve(packets) })
	t.Cleanup(func() {
		_ = s.server.Close()
		s.work.Wait()
	})
	return s
}

// handle serves a request, and reports what it saw when the session has ended.
func (s *ourServer) handle(ctx context.Context, request *wt.Request, c testCase) {
	if c.name == "reject" || request.Path != "/"+c.name {
		_ = request.Reject(404, nil)
		return
	}
	session, err := request.Accept(nil)
	if err != nil {
		s.reports <- report{Case: c.name, Error: err.Error()}
		return
	}
	r := report{Case: c.name, Draft: session.Draft().String(), Subprotocol: session.Subprotocol()}
	// ctx ends with the session, whose end is awaited.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), caseTimeout)
	defer cancel()
	if c.name == "drain-by-server" {
		// Shutdown waits for this handler, so the handler cannot wait for it.
		s.work.Go(func() { _ = s.server.Shutdown(context.WithoutCancel(ctx)) })
	}
	side := serves[c.name]
	if side == nil {
		side = echo
	}
	if err := side(ctx, session, &r); err != nil {
		r.Error = err.Error()
	}
	select {
	case <-session.Context().Done():
		r.Closed = endOf(context.Cause(session.Context()))
	case <-ctx.Done():
		r.Error += " the session did not end"
	}
	s.reports <- r
}

// endOf tells how a session ended, if the peer ended it.
func endOf(err error) closed {
	var ended *wt.SessionError
	var connection *quic.ApplicationError
	switch {
	case !errors.As(err, &ended):
		return closed{How: fmt.Sprint(err)}
	case ended.By == wt.Us && ended.Err == nil:
		return closed{}
	case ended.By == wt.Peer && ended.Err == nil:
		return closed{How: "close", Code: uint64(ended.Code), Reason: ended.Reason}
	case errors.As(ended.Err, &connection) && connection.Remote:
		return closed{How: "connection", Code: uint64(connection.ErrorCode), Reason: connection.ErrorMessage}
	default:
		return closed{How: ended.Error()}
	}
}

// echo sends back all that the client sends, until the session ends.
func echo(ctx context.Context, session *wt.Session, _ *report) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			work.Go(func() {
				b, err := io.ReadAll(stream)
				if err != nil {
					return
				}
				if back, err := session.OpenUniStream(ctx); err == nil {
					_, _ = back.Write(b)
					_ = back.Close()
				}
			})
		}
	})
	work.Go(func() {
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(ctx, b) != nil {
				return
			}
		}
	})
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			return nil
		}
		work.Go(func() { _ = sendBack(stream) })
	}
}

// sendBack echoes one stream to its end.
func sendBack(stream *wt.Stream) error {
	if _, err := io.Copy(stream, stream); err != nil {
		return err
	}
	return stream.Close()
}

// echoOne accepts a stream and echoes it.
func echoOne(ctx context.Context, session *wt.Session) error {
	stream, err := session.AcceptStream(ctx)
	if err != nil {
		return err
	}
	return sendBack(stream)
}

// eachStream accepts a stream for each code, echoes a byte on it, and calls f. The
// client may have fewer.
func eachStream(ctx context.Context, session *wt.Session, f func(*wt.Stream) error) error {
	for range streamCodes {
		stream, err := session.AcceptStream(ctx)
		if errors.Is(err, wt.ErrSessionClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = stream.SetDeadline(time.Now().Add(caseTimeout))
		b := make([]byte, 1)
		if _, err := io.ReadFull(stream, b); err != nil {
			return err
		}
		if _, err := stream.Write(b); err != nil {
			return err
		}
		if err := f(stream); err != nil {
			return err
		}
	}
	return nil
}

// note adds the application's code of an error that a reset or a stop of the peer
// is.
func (r *report) note(err error) error {
	var stream *wt.StreamError
	if !errors.As(err, &stream) || !stream.Remote || !stream.IsApplication() {
		return errors.New("no reset with an application's code: " + fmt.Sprint(err))
	}
	r.Codes = append(r.Codes, int64(stream.Code))
	return nil
}
