package main

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/nats-io/nats.go"
)

// natsLoader is a NATS client over WebSocket and TLS.
type natsLoader struct {
	conn  *nats.Conn
	topic string
}

func dialNATS(s *process) (loader, error) {
	c, err := nats.Connect("wss://"+s.addr, nats.Secure(&tls.Config{InsecureSkipVerify: true}), nats.NoReconnect(), nats.Timeout(20*time.Second))
	if err != nil {
		return nil, err
	}
	return &natsLoader{conn: c}, nil
}

func (l *natsLoader) subscribe(_ context.Context, topic string, got func([]byte)) error {
	sub, err := l.conn.Subscribe(topic, func(m *nats.Msg) { got(m.Data) })
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	return l.conn.FlushTimeout(20 * time.Second)
}

func (l *natsLoader) publisher(_ context.Context, topic string) error {
	l.topic = topic
	return nil
}

func (l *natsLoader) publish(payload []byte) error { return l.conn.Publish(l.topic, payload) }
func (l *natsLoader) close()                       { l.conn.Close() }
