package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/wt"
)

// handlerPath is where the pages look for handlers.
const handlerPath = "/webtransport/handlers/"

// handlers are the suite's handlers, by the name of their script. Each answers a
// request and serves the session to its end.
type handlers struct {
	stash stash
	log   func(format string, args ...any)
}

// ServeWebTransport answers a request as the handler does that its path names.
func (h *handlers) ServeWebTransport(ctx context.Context, r *wt.Request) {
	name := path.Base(r.Path)
	serve, ok := map[string]func(*handlers, context.Context, *wt.Request) error{
		"abort-server-initiated-stream.py":  (*handlers).abortOwnStream,
		"abort-stream-from-server.py":       (*handlers).abortStream,
		"client-close.py":                   (*handlers).clientClose,
		"custom-response.py":                (*handlers).customResponse,
		"echo-request-headers.py":           (*handlers).echoRequestHeaders,
		"echo.py":                           (*handlers).echo,
		"echo_datagram_length.py":           (*handlers).echoDatagramLength,
		"query.py":                          (*handlers).query,
		"sendorder-scheduling.py":           (*handlers).sendOrderScheduling,
		"sendorder.py":                      (*handlers).sendOrder,
		"server-close.py":                   (*handlers).serverClose,
		"server-connection-close.py":        (*handlers).serverConnectionClose,
		"server-create-multiple-streams.py": (*handlers).serverCreateMultipleStreams,
		"server-drain.py":                   (*handlers).serverDrain,
		"server-read-then-close.py":         (*handlers).serverReadThenClose,
		"stats-data-transfer.py":            (*handlers).statsDataTransfer,
		"token-count.py":                    (*handlers).tokenCount,
	}[name]
	if !ok || r.Path != handlerPath+name {
		return // 404
	}
	err := serve(h, ctx, r)
	h.log("%s, %v: %v; session: %v", r.RawPath, r.Draft, err, context.Cause(ctx))
}

// callbacks are what a handler does with what the client sends. A nil one takes
// it and does nothing.
type callbacks struct {
	// stream reads an incoming stream, or one that the server opened, to its end.
	// Send is nil where the server cannot answer on the stream itself.
	stream func(receive receiver, send sender) error
	// datagram gets each datagram.
	datagram func([]byte) error
}

// receiver and sender are the directions of the kinds of streams.
type (
	receiver interface {
		io.Reader
		CancelReadHTTP(code uint64)
	}
	sender interface {
		io.WriteCloser
		CancelWriteHTTP(code uint64)
	}
)

// run hands what the client sends to callbacks until the session ends.
func run(ctx context.Context, session *wt.Session, opened *wt.Stream, on callbacks) error {
	if on.stream == nil {
		on.stream = func(receive receiver, _ sender) error {
			_, err := io.Copy(io.Discard, receive)
			return err
		}
	}
	if on.datagram == nil {
		on.datagram = func([]byte) error { return nil }
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if opened != nil {
		wg.Go(func() { _ = on.stream(opened, opened) })
	}
	wg.Go(func() {
		for {
			stream, err := session.AcceptStream(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { _ = on.stream(stream, stream) })
		}
	})
	wg.Go(func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { _ = on.stream(stream, nil) })
		}
	})
	for {
		b, err := session.ReceiveDatagram(ctx)
		if err != nil {
			return err
		}
		_ = on.datagram(b)
	}
}

// acceptAndOpen accepts the request and opens a stream, which the client sees at
// once. The session is nil only if it was not accepted.
func acceptAndOpen(ctx context.Context, r *wt.Request) (*wt.Session, *wt.Stream, error) {
	session, err := r.Accept(nil)
	if err != nil {
		return nil, nil, err
	}
	stream, err := session.OpenStream(ctx)
	if err != nil {
		return session, nil, err
	}
	_, err = stream.Write(nil) // the header alone
	return session, stream, err
}

// sendUni sends b on a stream of its own.
func sendUni(ctx context.Context, session *wt.Session, b []byte) error {
	stream, err := session.OpenUniStream(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return err
	}
	return stream.Close()
}

// echo sends everything back: of a unidirectional stream on a new one.
func (h *handlers) echo(ctx context.Context, r *wt.Request) error {
	session, opened, err := acceptAndOpen(ctx, r)
	if err != nil {
		return err
	}
	return run(ctx, session, opened, callbacks{
		stream: func(receive receiver, send sender) error {
			if send == nil {
				uni, err := session.OpenUniStream(ctx)
				if err != nil {
					return err
				}
				send = uni
			}
			if _, err := io.Copy(send, receive); err != nil {
				return err
			}
			return send.Close()
		},
		datagram: func(b []byte) error { return session.SendDatagram(ctx, b) },
	})
}

// echoDatagramLength answers each datagram with its length.
func (h *handlers) echoDatagramLength(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{datagram: func(b []byte) error {
		answer, err := json.Marshal(map[string]int{"length": len(b)})
		if err != nil {
			return err
		}
		return session.SendDatagram(ctx, answer)
	}})
}

// echoRequestHeaders sends the request's fields, the pseudo-headers included.
func (h *handlers) echoRequestHeaders(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	fields := map[string]string{
		":method":    r.Method,
		":scheme":    r.Scheme,
		":authority": r.Authority,
		":path":      r.RawPath,
		":protocol":  r.Protocol,
	}
	for name, values := range r.Header {
		fields[strings.ToLower(name)] = values[len(values)-1]
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if err := sendUni(ctx, session, b); err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{})
}

// customResponse answers with the fields that the query names, :status among
// them.
func (h *handlers) customResponse(ctx context.Context, r *wt.Request) error {
	status, header := http.StatusOK, make(http.Header)
	for name, values := range r.Query {
		value := values[len(values)-1]
		if name != ":status" {
			header.Set(name, value)
			continue
		}
		var err error
		if status, err = strconv.Atoi(value); err != nil {
			return err
		}
	}
	if status < 200 || status > 299 {
		return r.Reject(status, header)
	}
	session, err := r.Accept(&wt.AcceptOptions{Status: status, Header: header})
	if err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{})
}

// clientClose puts into the stash how the client ended streams and session.
func (h *handlers) clientClose(ctx context.Context, r *wt.Request) error {
	token := r.Query.Get("token")
	note := func(key string, value any) {
		h.stash.update(token, func(old any) any {
			info, ok := old.(map[string]any)
			if !ok {
				info = make(map[string]any)
			}
			info[key] = value
			return info
		})
	}
	session, opened, err := acceptAndOpen(ctx, r)
	if session == nil {
		return err
	}
	if err != nil {
		opened = nil // the client has ended the session already
	}
	err = run(ctx, session, opened, callbacks{stream: func(receive receiver, _ sender) error {
		_, err := io.Copy(io.Discard, receive)
		var reset *wt.StreamError
		switch {
		case err == nil:
			note("stream-close-info", map[string]any{"source": "FIN"})
		case errors.As(err, &reset) && reset.Remote:
			note("stream-close-info", map[string]any{"source": "reset", "code": reset.HTTPCode})
		}
		return err
	}})
	var ended *wt.SessionError
	if !errors.As(context.Cause(session.Context()), &ended) {
		return err
	}
	info := map[string]any{"abruptly": false, "close_info": nil}
	switch ended.Via {
	case wt.ViaCapsule:
		info["close_info"] = map[string]any{"code": ended.Code, "reason": ended.Reason}
	case wt.ViaFIN:
	default:
		info["abruptly"] = true
	}
	note("session-close-info", info)
	return err
}

// query sends what the stash has under a token, and removes it.
func (h *handlers) query(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	value := h.stash.take(r.Query.Get("token"))
	if value == nil {
		value = struct{}{}
	}
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := sendUni(ctx, session, b); err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{})
}

// serverClose closes the session: with the query's code and reason, or without
// any, by FIN alone.
func (h *handlers) serverClose(_ context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	if !r.Query.Has("code") {
		return session.Finish()
	}
	code, err := strconv.ParseUint(r.Query.Get("code"), 10, 32)
	if err != nil {
		return err
	}
	return session.CloseWithError(uint32(code), r.Query.Get("reason"))
}

// serverConnectionClose closes the whole connection when data comes.
func (h *handlers) serverConnectionClose(ctx context.Context, r *wt.Request) error {
	session, opened, err := acceptAndOpen(ctx, r)
	if err != nil {
		return err
	}
	return run(ctx, session, opened, callbacks{stream: func(receive receiver, _ sender) error {
		if err := awaitData(receive); err != nil {
			return err
		}
		return session.CloseConnection(0, "")
	}})
}

// serverReadThenClose closes the session without code or reason when data comes.
func (h *handlers) serverReadThenClose(ctx context.Context, r *wt.Request) error {
	session, opened, err := acceptAndOpen(ctx, r)
	if err != nil {
		return err
	}
	return run(ctx, session, opened, callbacks{stream: func(receive receiver, _ sender) error {
		if err := awaitData(receive); err != nil {
			return err
		}
		return session.Finish()
	}})
}

// abortStream ends streams with the HTTP/3 code of the query when data comes.
func (h *handlers) abortStream(ctx context.Context, r *wt.Request) error {
	code, err := strconv.ParseUint(r.Query.Get("code"), 10, 62)
	if err != nil {
		return err
	}
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{stream: func(receive receiver, send sender) error {
		if err := awaitData(receive); err != nil {
			return err
		}
		receive.CancelReadHTTP(code)
		if send != nil {
			send.CancelWriteHTTP(code)
		}
		return nil
	}})
}

// abortOwnStream resets a stream that it has written on.
func (h *handlers) abortOwnStream(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	stream, err := session.OpenUniStream(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stream, "hello"); err != nil {
		return err
	}
	stream.CancelWrite(0)
	return run(ctx, session, nil, callbacks{})
}

// awaitData returns when a stream has data or has ended.
func awaitData(receive io.Reader) error {
	_, err := receive.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serverCreateMultipleStreams opens streams, as many and of the kind that the
// query says.
func (h *handlers) serverCreateMultipleStreams(ctx context.Context, r *wt.Request) error {
	count := 3
	if s := r.Query.Get("count"); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			return err
		}
	}
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	for i := range count {
		b := []byte("stream" + strconv.Itoa(i))
		if r.Query.Get("type") == "unidi" {
			err = sendUni(ctx, session, b)
		} else {
			err = sendBidi(ctx, session, b)
		}
		if err != nil {
			return err
		}
	}
	return run(ctx, session, nil, callbacks{})
}

// sendBidi sends b on a new bidirectional stream, whose other direction stays
// unread.
func sendBidi(ctx context.Context, session *wt.Session, b []byte) error {
	stream, err := session.OpenStream(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return err
	}
	return stream.Close()
}

// serverDrain asks the client to end the session if the query says so.
func (h *handlers) serverDrain(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	if strings.Contains(r.RawPath, "?drain") || r.Query.Has("drain") {
		if err := session.Drain(); err != nil {
			return err
		}
	}
	return run(ctx, session, nil, callbacks{})
}

// tokenCount answers each chunk with how often that chunk has come.
func (h *handlers) tokenCount(ctx context.Context, r *wt.Request) error {
	session, opened, err := acceptAndOpen(ctx, r)
	if err != nil {
		return err
	}
	return run(ctx, session, opened, callbacks{stream: func(receive receiver, send sender) error {
		if send == nil {
			uni, err := session.OpenUniStream(ctx)
			if err != nil {
				return err
			}
			send = uni
		}
		return eachChunk(receive, func(chunk []byte) error {
			count := 0
			h.stash.update(string(chunk), func(old any) any {
				count, _ = old.(int)
				count++
				return count
			})
			_, err := io.WriteString(send, strconv.Itoa(count))
			return err
		})
	}})
}

// sendOrder puts into the stash the first bytes of all chunks, in their order of
// arrival.
func (h *handlers) sendOrder(ctx context.Context, r *wt.Request) error {
	token := r.Query.Get("token")
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	return run(ctx, session, nil, callbacks{
		stream: func(receive receiver, _ sender) error {
			return eachChunk(receive, func(chunk []byte) error {
				h.stash.update(token, func(old any) any {
					order, _ := old.([]int)
					return append(order, int(chunk[0]))
				})
				return nil
			})
		},
		datagram: func(b []byte) error { return session.SendDatagram(ctx, b) },
	})
}

// sendOrderScheduling answers the end of each stream with how many bytes have come
// on each by then, by the byte that the stream began with.
func (h *handlers) sendOrderScheduling(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	counts := make(map[int]int)
	return run(ctx, session, nil, callbacks{stream: func(receive receiver, send sender) error {
		marker := -1
		err := eachChunk(receive, func(chunk []byte) error {
			if marker < 0 {
				marker = int(chunk[0])
			}
			mu.Lock()
			counts[marker] += len(chunk)
			mu.Unlock()
			return nil
		})
		if err != nil || send == nil {
			return err
		}
		mu.Lock()
		b, err := json.Marshal(counts)
		mu.Unlock()
		if err != nil {
			return err
		}
		if _, err := send.Write(b); err != nil {
			return err
		}
		return send.Close()
	}})
}

// statsDataTransfer sends 5,000 bytes on a stream of its own, and echoes datagrams.
func (h *handlers) statsDataTransfer(ctx context.Context, r *wt.Request) error {
	session, err := r.Accept(nil)
	if err != nil {
		return err
	}
	stream, err := session.OpenStream(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Write(bytes.Repeat([]byte("X"), 5000)); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	return run(ctx, session, stream, callbacks{
		datagram: func(b []byte) error { return session.SendDatagram(ctx, b) },
	})
}

// eachChunk calls f with what each read of a stream brings, until it ends.
func eachChunk(receive io.Reader, f func(chunk []byte) error) error {
	buffer := make([]byte, 16<<10)
	for {
		n, err := receive.Read(buffer)
		if n > 0 {
			if err := f(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
