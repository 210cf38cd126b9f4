package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/wt"
)

// serveHandlers serves the handlers until the test ends. It returns the URL of
// their directory and a dialer that trusts the server.
func serveHandlers(t *testing.T) (url string, dialer *wt.Dialer) {
	t.Helper()
	identity, err := wt.NewDevIdentity()
	if err != nil {
		t.Fatal(err)
	}
	server, err := wt.NewServer(wt.ServerConfig{
		TLSConfig:   identity.TLSConfig(),
		Handler:     &handlers{log: t.Logf},
		CheckOrigin: func(r *wt.Request) bool { return r.Origin != "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(packets) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return "https://" + packets.LocalAddr().String() + handlerPath, &wt.Dialer{
		CertificateHashes: [][32]byte{identity.Hash()},
		Origin:            "https://" + host,
	}
}

func dial(t *testing.T, dialer *wt.Dialer, url string) *wt.Session {
	t.Helper()
	session, err := dialer.Dial(t.Context(), url)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// ended waits for the session's end.
func ended(t *testing.T, session *wt.Session) *wt.SessionError {
	t.Helper()
	<-session.Context().Done()
	var err *wt.SessionError
	if !errors.As(context.Cause(session.Context()), &err) {
		t.Fatalf("session ended with %v", context.Cause(session.Context()))
	}
	return err
}

// acceptStream accepts the stream that many handlers open at once.
func acceptStream(t *testing.T, session *wt.Session) *wt.Stream {
	t.Helper()
	stream, err := session.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// readUni reads the next unidirectional stream to its end.
func readUni(t *testing.T, session *wt.Session) []byte {
	t.Helper()
	stream, err := session.AcceptUniStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// roundTrip writes on a stream, ends it, and reads its other direction.
func roundTrip(t *testing.T, stream *wt.Stream, text string) string {
	t.Helper()
	if _, err := io.WriteString(stream, text); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func openStream(t *testing.T, session *wt.Session) *wt.Stream {
	t.Helper()
	stream, err := session.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func openUniStream(t *testing.T, session *wt.Session) *wt.SendStream {
	t.Helper()
	stream, err := session.OpenUniStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestEcho(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"echo.py")
	for name, stream := range map[string]*wt.Stream{
		"the server's stream": acceptStream(t, session),
		"the client's stream": openStream(t, session),
	} {
		if got := roundTrip(t, stream, name); got != name {
			t.Errorf("%s: %q", name, got)
		}
	}
	uni := openUniStream(t, session)
	if _, err := io.WriteString(uni, "one way"); err != nil {
		t.Fatal(err)
	}
	if err := uni.Close(); err != nil {
		t.Fatal(err)
	}
	if got := string(readUni(t, session)); got != "one way" {
		t.Errorf("unidirectional: %q", got)
	}
	if got := datagramRoundTrip(t, session, "now"); got != "now" {
		t.Errorf("datagram: %q", got)
	}
}

func datagramRoundTrip(t *testing.T, session *wt.Session, text string) string {
	t.Helper()
	if err := session.SendDatagram(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	b, err := session.ReceiveDatagram(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEchoDatagramLength(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"echo_datagram_length.py")
	if got := datagramRoundTrip(t, session, "seventeen letters"); got != `{"length":17}` {
		t.Errorf("got %s", got)
	}
}

func TestEchoRequestHeaders(t *testing.T) {
	url, dialer := serveHandlers(t)
	dialer.Header = http.Header{"X-Probe": {"sent"}}
	dialer.Subprotocols = []string{"a", "b"}
	session := dial(t, dialer, url+"echo-request-headers.py")
	var got map[string]string
	if err := json.Unmarshal(readUni(t, session), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		":method":                "CONNECT",
		":scheme":                "https",
		":authority":             session.RemoteAddr().String(),
		":path":                  "/webtransport/handlers/echo-request-headers.py",
		":protocol":              "webtransport-h3",
		"origin":                 "https://" + host,
		"x-probe":                "sent",
		"wt-available-protocols": `"a", "b"`,
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

func TestCustomResponse(t *testing.T) {
	url, dialer := serveHandlers(t)
	url += "custom-response.py"
	for _, query := range []string{"?:status=200", "?:status=204", "?x-one=1&set-cookie=a%3Db", ""} {
		dial(t, dialer, url+query)
	}
	dialer.Subprotocols = []string{"a", "b"}
	if got := dial(t, dialer, url+"?wt-protocol=%22b%22%3B%20a%3Dc").Subprotocol(); got != "b" {
		t.Errorf("subprotocol %q", got)
	}
	for _, status := range []int{301, 401, 404} {
		_, err := dialer.Dial(t.Context(), url+"?x-one=1&:status="+strconv.Itoa(status))
		var rejected *wt.RejectedError
		if !errors.As(err, &rejected) || rejected.Status != status || rejected.Header.Get("X-One") != "1" {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

// query asks for what the stash has under a token.
func query(t *testing.T, dialer *wt.Dialer, url string) map[string]any {
	t.Helper()
	session := dial(t, dialer, url+"query.py?token=t")
	var got map[string]any
	if err := json.Unmarshal(readUni(t, session), &got); err != nil {
		t.Fatal(err)
	}
	_ = session.Close()
	return got
}

// awaitQuery asks until the stash has something under a key.
func awaitQuery(t *testing.T, dialer *wt.Dialer, url, key string) any {
	t.Helper()
	for t.Context().Err() == nil {
		if value, ok := query(t, dialer, url)[key]; ok {
			return value
		}
	}
	t.Fatalf("%s: %v", key, t.Context().Err())
	return nil
}

func TestClientClose(t *testing.T) {
	url, dialer := serveHandlers(t)
	if got := query(t, dialer, url); len(got) != 0 {
		t.Errorf("an empty stash has %v", got)
	}

	for name, end := range map[string]struct {
		do   func(*wt.Session)
		want any
	}{
		"close": {
			func(s *wt.Session) { _ = s.CloseWithError(99, "reason X") },
			map[string]any{"abruptly": false, "close_info": map[string]any{"code": 99.0, "reason": "reason X"}},
		},
		"FIN": {
			func(s *wt.Session) { _ = s.Finish() },
			map[string]any{"abruptly": false, "close_info": nil},
		},
		"connection": {
			func(s *wt.Session) { _ = s.CloseConnection(0x100, "") },
			map[string]any{"abruptly": true, "close_info": nil},
		},
	} {
		session := dial(t, dialer, url+"client-close.py?token=t")
		end.do(session)
		if got := awaitQuery(t, dialer, url, "session-close-info"); !reflect.DeepEqual(got, end.want) {
			t.Errorf("%s: %v, want %v", name, got, end.want)
		}
	}

	for name, end := range map[string]struct {
		do   func(*wt.Session)
		want any
	}{
		"FIN": {
			func(s *wt.Session) { _ = openStream(t, s).Close() },
			map[string]any{"source": "FIN"},
		},
		"reset of the server's stream": {
			func(s *wt.Session) { acceptStream(t, s).CancelWrite(52) },
			map[string]any{"source": "reset", "code": float64(0x52e4a40fa8db + 52 + 1)},
		},
		"reset": {
			func(s *wt.Session) { openUniStream(t, s).CancelWrite(0) },
			map[string]any{"source": "reset", "code": float64(0x52e4a40fa8db)},
		},
	} {
		session := dial(t, dialer, url+"client-close.py?token=t")
		end.do(session)
		if got := awaitQuery(t, dialer, url, "stream-close-info"); !reflect.DeepEqual(got, end.want) {
			t.Errorf("%s: %v, want %v", name, got, end.want)
		}
	}
}

func TestServerCloses(t *testing.T) {
	url, dialer := serveHandlers(t)
	got := ended(t, dial(t, dialer, url+"server-close.py?code=32&reason=abc"))
	if got.Via != wt.ViaCapsule || got.Code != 32 || got.Reason != "abc" {
		t.Errorf("with code and reason: %v", got)
	}
	if got = ended(t, dial(t, dialer, url+"server-close.py")); got.Via != wt.ViaFIN {
		t.Errorf("without: %v", got)
	}
	for name, via := range map[string]wt.Ending{
		"server-read-then-close.py":  wt.ViaFIN,
		"server-connection-close.py": wt.ViaConnection,
	} {
		session := dial(t, dialer, url+name)
		_, _ = acceptStream(t, session).Write([]byte("x")) // the end may be faster than its return
		if got := ended(t, session); got.Via != via {
			t.Errorf("%s: %v, via %v", name, got, got.Via)
		}
	}
}

func TestAbortStream(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"abort-stream-from-server.py?code=91146396643682")
	stream := openStream(t, session)
	_, _ = stream.Write([]byte("x")) // the stop may be faster than its return
	_, err := stream.Read(make([]byte, 1))
	var reset *wt.StreamError
	if !errors.As(err, &reset) || !reset.Remote || reset.Code != 1<<32-1 {
		t.Errorf("read: %v", err)
	}
	<-stream.Context().Done()
	_, err = stream.Write([]byte("x"))
	if !errors.As(err, &reset) || !reset.Remote || reset.Code != 1<<32-1 {
		t.Errorf("write: %v", err)
	}
	uni := openUniStream(t, session)
	_, _ = uni.Write([]byte("x")) // the stop may be faster than its return
	<-uni.Context().Done()
	_, err = uni.Write([]byte("x"))
	if !errors.As(err, &reset) || reset.Code != 1<<32-1 {
		t.Errorf("write on unidirectional stream: %v", err)
	}
}

func TestServerCreatesStreams(t *testing.T) {
	url, dialer := serveHandlers(t)
	for _, kind := range []string{"bidi", "unidi"} {
		session := dial(t, dialer, url+"server-create-multiple-streams.py?count=5&type="+kind)
		got := make(map[string]bool)
		for range 5 {
			if kind == "unidi" {
				got[string(readUni(t, session))] = true
				continue
			}
			b, err := io.ReadAll(acceptStream(t, session))
			if err != nil {
				t.Fatal(err)
			}
			got[string(b)] = true
		}
		if want := map[string]bool{"stream0": true, "stream1": true, "stream2": true, "stream3": true, "stream4": true}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

func TestServerDrain(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"server-drain.py?drain")
	<-session.Draining()
	openStream(t, session)
}

func TestTokenCount(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"token-count.py")
	for _, want := range []string{"1", "2"} {
		stream := openStream(t, session)
		if _, err := stream.Write([]byte("token")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(stream, b); err != nil || string(b) != want {
			t.Errorf("count %q, %v, want %s", b, err, want)
		}
	}
}

func TestSendOrderScheduling(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"sendorder-scheduling.py")
	first, second := openStream(t, session), openStream(t, session)
	if _, err := first.Write([]byte{1, 1, 1}); err != nil {
		t.Fatal(err)
	}
	if got := roundTrip(t, second, "\x02\x02"); got != `{"1":3,"2":2}` && got != `{"2":2}` {
		t.Errorf("second: %s", got)
	}
	if got := roundTrip(t, first, "\x05"); got != `{"1":4,"2":2}` {
		t.Errorf("first: %s", got)
	}
}

func TestStreamsOfTheServer(t *testing.T) {
	url, dialer := serveHandlers(t)
	session := dial(t, dialer, url+"stats-data-transfer.py")
	if b, err := io.ReadAll(acceptStream(t, session)); err != nil || len(b) != 5000 {
		t.Errorf("stats: %d bytes, %v", len(b), err)
	}
	session = dial(t, dialer, url+"abort-server-initiated-stream.py")
	stream, err := session.AcceptUniStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(stream)
	var reset *wt.StreamError
	if !errors.As(err, &reset) || !reset.IsApplication() || reset.Code != 0 {
		t.Errorf("abort: %v", err)
	}
}

func TestUnknownHandler(t *testing.T) {
	url, dialer := serveHandlers(t)
	for _, path := range []string{"none.py", "below/echo.py"} {
		_, err := dialer.Dial(t.Context(), url+path)
		var rejected *wt.RejectedError
		if !errors.As(err, &rejected) || rejected.Status != http.StatusNotFound {
			t.Errorf("%s: %v", path, err)
		}
	}
}
