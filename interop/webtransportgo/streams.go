package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/quic-go/webtransport-go"
)

// What both sides do with streams.

// echo sends back all that the other side sends, until the session ends, and
// returns the error that says how.
func echo(session *webtransport.Session) error {
	ctx := session.Context()
	go func() {
		for {
			stream, err := session.AcceptUniStream(ctx)
			if err != nil {
				return
			}
			go func() {
				b, err := io.ReadAll(stream)
				if err != nil {
					return
				}
				if back, err := session.OpenUniStreamSync(ctx); err == nil {
					_, _ = back.Write(b)
					_ = back.Close()
				}
			}()
		}
	}()
	go func() {
		for {
			b, err := session.ReceiveDatagram(ctx)
			if err != nil || session.SendDatagram(b) != nil {
				return
			}
		}
	}()
	for {
		// The session's context carries no cause, so it is not used here.
		stream, err := session.AcceptStream(context.Background())
		if err != nil {
			return err
		}
		go func() { _ = sendBack(stream) }()
	}
}

// sendBack echoes one stream to its end.
func sendBack(stream *webtransport.Stream) error {
	if _, err := io.Copy(stream, stream); err != nil {
		return err
	}
	return stream.Close()
}

// echoOne accepts a stream and echoes it.
func echoOne(ctx context.Context, session *webtransport.Session) error {
	stream, err := session.AcceptStream(ctx)
	if err != nil {
		return err
	}
	return sendBack(stream)
}

// exchange sends b on a new stream and wants it back.
func exchange(ctx context.Context, session *webtransport.Session, b []byte) error {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := stream.Write(b)
		sent <- errors.Join(err, stream.Close())
	}()
	got, err := io.ReadAll(stream)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(b))
	}
	return errors.Join(err, <-sent)
}

// exchangeUni sends b on a new stream and wants it back on one of the server's.
func exchangeUni(ctx context.Context, session *webtransport.Session, b []byte) error {
	stream, err := session.OpenUniStreamSync(ctx)
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

// askEcho opens a stream, writes text, and ends it when that has come back.
func askEcho(ctx context.Context, session *webtransport.Session, text string) error {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
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

// manyStreams has all streams open at once, and returns how many were echoed.
func manyStreams(ctx context.Context, session *webtransport.Session) (int, error) {
	streams := make([]*webtransport.Stream, streamCount)
	for i := range streams {
		stream, err := session.OpenStreamSync(ctx)
		if err != nil {
			return 0, fmt.Errorf("stream %d: %w", i, err)
		}
		if _, err := stream.Write([]byte{byte(i)}); err != nil {
			return 0, fmt.Errorf("stream %d: %w", i, err)
		}
		streams[i] = stream
	}
	for i, stream := range streams {
		b := bytes.Repeat([]byte{byte(i)}, streamSize)
		if _, err := stream.Write(b[1:]); err != nil {
			return i, fmt.Errorf("stream %d: %w", i, err)
		}
		if err := stream.Close(); err != nil {
			return i, fmt.Errorf("stream %d: %w", i, err)
		}
		got, err := io.ReadAll(stream)
		if err != nil {
			return i, fmt.Errorf("stream %d: %w", i, err)
		}
		if !bytes.Equal(got, b) {
			return i, fmt.Errorf("stream %d: echo of %d bytes differs", i, len(got))
		}
	}
	return streamCount, nil
}

// say sends a text on a stream of its own.
func say(ctx context.Context, session *webtransport.Session, text string) error {
	stream, err := session.OpenUniStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stream, text); err != nil {
		return err
	}
	return stream.Close()
}

// note adds the code of an error that a reset or a stop of the other side is.
func (r *report) note(err error) error {
	var cancelled *webtransport.StreamError
	if !errors.As(err, &cancelled) || !cancelled.Remote {
		return fmt.Errorf("no reset by the other side: %v", err)
	}
	r.Codes = append(r.Codes, cancelled.ErrorCode)
	return nil
}

// stopped waits until the other side stops the stream, and returns the error that
// a write then has.
func stopped(ctx context.Context, stream *webtransport.Stream) error {
	select {
	case <-stream.Context().Done():
	case <-ctx.Done():
		return errors.New("the stream was not stopped")
	}
	_, err := stream.Write([]byte{0})
	return err
}
