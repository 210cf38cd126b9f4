package contract

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/wt"
)

// stopTimeout bounds a graceful stop of a broker.
const stopTimeout = 2 * time.Second

// node is a broker that can be stopped and started again.
type node struct {
	config broker.Config
	log    *slog.Logger

	mu     sync.Mutex
	broker *broker.Broker // nil while it is stopped; guarded by mu
	doors  []*door        // guarded by mu
}

func (n *node) current() *broker.Broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broker
}

func (n *node) serve(ctx context.Context, r *wt.Request) {
	if b := n.current(); b != nil {
		b.ServeWebTransport(ctx, r)
	}
}

func (n *node) add(d *door) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.doors = append(n.doors, d)
}

// start runs the broker, unless it runs, and opens its doors.
func (n *node) start() error {
	n.mu.Lock()
	if n.broker == nil {
		b, err := broker.New(n.config)
		if err != nil {
			n.mu.Unlock()
			return err
		}
		n.broker = b
	}
	doors := n.doors
	n.mu.Unlock()
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.open())
	}
	return errors.Join(errs...)
}

// stop ends the broker and its connections: at once, or after it has told its
// clients.
func (n *node) stop(gracefully bool) error {
	n.mu.Lock()
	b, doors := n.broker, n.doors
	n.broker = nil
	n.mu.Unlock()
	if b == nil {
		return nil
	}
	var errs []error
	if gracefully {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := b.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	for _, d := range doors {
		errs = append(errs, d.close())
	}
	return errors.Join(append(errs, b.Close())...)
}

// shut ends the doors for good.
func (n *node) shut() error {
	n.mu.Lock()
	doors := n.doors
	n.doors = nil
	n.mu.Unlock()
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.setCut(true))
	}
	return errors.Join(errs...)
}
