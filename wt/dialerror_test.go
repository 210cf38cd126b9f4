package wt_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tidewire/tidewire/wt"
)

// What a failed dial says: the step, and words that help.
func TestDialErrors(t *testing.T) {
	identity := must(wt.NewDevIdentity("127.0.0.2"))(t)
	hash := identity.Hash()
	seen := base64.StdEncoding.EncodeToString(hash[:])
	cases := map[string]struct {
		server func(*tls.Config)
		dialer wt.Dialer
		step   wt.DialStep
		says   []string
	}{
		"another protocol": {
			server: func(config *tls.Config) { config.NextProtos = []string{"smtp"} },
			dialer: wt.Dialer{InsecureSkipVerify: true},
			step:   wt.StepConnect,
			says:   []string{"127.0.0.2:4433", "HTTP/3", "ALPN h3"},
		},
		"certificate of another": {
			dialer: wt.Dialer{CertificateHashes: [][32]byte{{1}, {2}}},
			step:   wt.StepConnect,
			says:   []string{seen, "none of the 2"},
		},
		"certificate of no authority": {
			dialer: wt.Dialer{},
			step:   wt.StepConnect,
			says:   []string{"RootCAs", "CertificateHashes"},
		},
		"no certificate of the client": {
			server: func(config *tls.Config) { config.ClientAuth = tls.RequireAnyClientCert },
			dialer: wt.Dialer{InsecureSkipVerify: true},
			step:   wt.StepSettings, // the server looks at it after our handshake
			says:   []string{"client's certificate", "TLSConfig.Certificates"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, 0)
			config := identity.TLSConfig()
			config.NextProtos = []string{"h3"}
			if c.server != nil {
				c.server(config)
			}
			transport := &quic.Transport{Conn: n.server}
			listener := must(transport.Listen(config, peerQUIC()))(t)
			defer transport.Close()
			defer listener.Close()
			dialer := c.dialer
			dialer.PacketConn = n.client
			_, err := dialer.Dial(t.Context(), serverURL)
			var failed *wt.DialError
			if !errors.As(err, &failed) || failed.Step != c.step || failed.Timeout() {
				t.Fatalf("dial returned %v, want an error of step %v", err, c.step)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %q", err, part)
				}
			}
		})
	}
	t.Run("another version of QUIC", func(t *testing.T) {
		n := newNetwork(t, 0)
		transport := &quic.Transport{Conn: n.server}
		config := peerQUIC()
		config.Versions = []quic.Version{quic.Version2}
		tlsConfig := identity.TLSConfig()
		tlsConfig.NextProtos = []string{"h3"}
		listener := must(transport.Listen(tlsConfig, config))(t)
		defer transport.Close()
		defer listener.Close()
		dialer := wt.Dialer{PacketConn: n.client, InsecureSkipVerify: true, QUICConfig: &quic.Config{Versions: []quic.Version{quic.Version1}}}
		_, err := dialer.Dial(t.Context(), serverURL)
		var failed *wt.DialError
		if !errors.As(err, &failed) || failed.Step != wt.StepConnect || !strings.Contains(err.Error(), "version of QUIC") {
			t.Errorf("dial returned %v", err)
		}
	})
	t.Run("request reset", func(t *testing.T) {
		_, stream, result := answerPeer(t, wt.Dialer{})
		stream.CancelWrite(h3RequestRejected)
		err := (<-result).err
		var failed *wt.DialError
		var reset *wt.StreamError
		if !errors.As(err, &failed) || failed.Step != wt.StepRequest || !errors.As(err, &reset) || reset.HTTPCode != h3RequestRejected {
			t.Errorf("dial returned %v", err)
		}
		if text := err.Error(); !strings.Contains(text, "0x10b (H3_REQUEST_REJECTED)") {
			t.Errorf("%q does not name the code", text)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, result := listenPeer(t.Context(), t, wt.Dialer{AnswerTimeout: time.Second})
			p.control(serverSettings())
			p.readHeaders(must(p.conn.AcceptStream(t.Context()))(t))
			err := (<-result).err
			var failed *wt.DialError
			if !errors.As(err, &failed) || failed.Step != wt.StepRequest || !failed.Timeout() || !strings.Contains(err.Error(), "Accept or Reject") {
				t.Errorf("dial returned %v", err)
			}
			p.wantClosed(h3NoError)
		})
	})
	t.Run("context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("changed my mind")
			p, result := listenPeer(ctx, t, wt.Dialer{})
			p.control(serverSettings())
			stream := must(p.conn.AcceptStream(t.Context()))(t)
			p.readHeaders(stream)
			cancel(why)
			err := (<-result).err
			var failed *wt.DialError
			if !errors.As(err, &failed) || failed.Step != wt.StepRequest || !errors.Is(err, why) {
				t.Errorf("dial returned %v", err)
			}
			p.wantClosed(h3NoError)
		})
	})
	for step, name := range map[wt.DialStep]string{
		wt.StepResolve: "resolve", wt.StepConnect: "connect", wt.StepSettings: "settings", wt.StepRequest: "request", 9: "DialStep(9)",
	} {
		if step.String() != name {
			t.Errorf("step %d is %q", step, step)
		}
	}
}

// What the text of a refusal says beside the status.
func TestRejectedErrorText(t *testing.T) {
	there := http.Header{"Location": {"/chat/"}}
	for want, err := range map[string]*wt.RejectedError{
		"wt: server rejected the session with status 403 Forbidden":                       {Status: 403},
		"wt: server rejected the session with status 599":                                 {Status: 599},
		"wt: server rejected the session with status 404 Not Found":                       {Status: 404, Header: there},
		`wt: server rejected the session with status 307 Temporary Redirect, to "/chat/"`: {Status: 307, Header: there},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A URL without its scheme is refused with words that show the form.
func TestURLText(t *testing.T) {
	for _, url := range []string{"127.0.0.1:4433/chat", "localhost:4433/chat", "wss://localhost/chat", "/chat"} {
		if _, err := new(wt.Dialer).Dial(t.Context(), url); err == nil || !strings.Contains(err.Error(), "https://") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// A client's certificate reaches the server, which sees it in the connection's
// state.
func TestClientCertificate(t *testing.T) {
	server, client := must(wt.NewDevIdentity("127.0.0.2"))(t), must(wt.NewDevIdentity("me"))(t)
	n := newNetwork(t, 0)
	config := server.TLSConfig()
	config.ClientAuth = tls.RequireAnyClientCert
	sessions := make(chan *wt.Session, 1)
	serve(t, n.server, wt.ServerConfig{TLSConfig: config, Handler: accepting(sessions)})
	dialer := wt.Dialer{
		PacketConn:        n.client,
		CertificateHashes: [][32]byte{server.Hash()},
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{client.Certificate()}},
	}
	session := must(dialer.Dial(t.Context(), serverURL))(t)
	peers := (<-sessions).Conn().ConnectionState().TLS.PeerCertificates
	if len(peers) != 1 || !peers[0].Equal(client.Certificate().Leaf) {
		t.Errorf("server saw %d certificates", len(peers))
	}
	check(t, session.Close())
}

// The check of the application comes beside that by hashes.
func TestHashesKeepOwnCheck(t *testing.T) {
	identity := must(wt.NewDevIdentity())(t)
	refusal := errors.New("not this one")
	var asked int
	for name, c := range map[string]struct {
		hash  [32]byte
		asked int
	}{"right hash": {identity.Hash(), 1}, "wrong hash": {[32]byte{}, 0}} {
		t.Run(name, func(t *testing.T) {
			asked = 0
			n := newNetwork(t, 0)
			serve(t, n.server, wt.ServerConfig{TLSConfig: identity.TLSConfig(), Handler: accepting(make(chan *wt.Session, 1))})
			dialer := wt.Dialer{
				PacketConn:        n.client,
				CertificateHashes: [][32]byte{c.hash},
				TLSConfig: &tls.Config{VerifyConnection: func(tls.ConnectionState) error {
					asked++
					return refusal
				}},
			}
			if _, err := dialer.Dial(t.Context(), serverURL); err == nil || errors.Is(err, refusal) != (c.asked > 0) {
				t.Errorf("dial returned %v", err)
			}
			if asked != c.asked {
				t.Errorf("asked %d times, want %d", asked, c.asked)
			}
		})
	}
}
