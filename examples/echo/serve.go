package main

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/tidewire/tidewire/wt"
)

// serve answers a request for a session, and serves the session.
func serve(ctx context.Context, r *wt.Request) {
	switch r.Path {
	case "/echo":
		if session, err := r.Accept(nil); err == nil {
			echo(ctx, session)
		}
	case "/close":
		code, err := strconv.ParseUint(r.Query.Get("code"), 10, 32)
		if err != nil {
			_ = r.Reject(http.StatusBadRequest, nil)
			return
		}
		if session, err := r.Accept(nil); err == nil {
			_ = session.CloseWithError(uint32(code), r.Query.Get("reason"))
		}
	default:
		_ = r.Reject(http.StatusNotFound, nil)
	}
}

// echo sends back all that the peer sends, until the session ends or the server is
// about to.
func echo(ctx context.Context, session *wt.Session) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		select {
		case <-session.Draining():
			_ = session.Close()
		case <-ctx.Done():
		}
	})
	work.Go(func() { echoUniStreams(ctx, session) })
	work.Go(func() { echoDatagrams(ctx, session) })
	for {
		stream, err := session.AcceptStream(ctx)
		if err != nil {
			return
		}
		work.Go(func() { copyStream(stream, stream, stream.CancelWrite) })
	}
}

// echoUniStreams answers each unidirectional stream by one of its own.
func echoUniStreams(ctx context.Context, session *wt.Session) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		stream, err := session.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		work.Go(func() {
			if back, err := session.OpenUniStream(ctx); err == nil {
				copyStream(back, stream, back.CancelWrite)
			}
		})
	}
}

func echoDatagrams(ctx context.Context, session *wt.Session) {
	for {
		b, err := session.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if err := session.SendDatagram(ctx, b); err != nil {
			return
		}
	}
}

// copyStream copies until the end, and ends the copy in the same way: with FIN,
// or with a reset.
func copyStream(to io.WriteCloser, from io.Reader, reset func(code uint32)) {
	if _, err := io.Copy(to, from); err != nil {
		reset(0)
		return
	}
	_ = to.Close()
}
