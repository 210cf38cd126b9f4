package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidewire/tidewire/client"
)

type connectFields struct {
	Client   string `json:"client"`
	Broker   int    `json:"broker"`
	Token    *Grant `json:"token"`
	BadToken bool   `json:"badToken"` // one that nobody knows
	// GetToken gives these one after the other, the last one again and again; null is
	// that there is none just now.
	GetToken []*Grant `json:"getToken"`
	Offline  *struct {
		MaxBytes int  `json:"maxBytes"`
		Refuse   bool `json:"refuse"`
	} `json:"offline"`
	PingAfter   int `json:"pingAfter"` // ms
	PingTimeout int `json:"pingTimeout"`
}

func (r *run) connect(ctx context.Context, f connectFields) error {
	name := orA(f.Client)
	b, err := json.Marshal(addressStep{Client: name, Broker: f.Broker})
	if err != nil {
		return err
	}
	a, err := r.world.Do("address", b)
	if err != nil {
		return err
	}
	u := &user{changed: make(chan struct{})}
	config := client.Config{
		CertificateHashes: [][32]byte{r.world.Identity().Hash()},
		ConnectTimeout:    2 * time.Second,
		Backoff:           client.Backoff{Min: 20 * time.Millisecond, Max: 100 * time.Millisecond},
		OnState:           u.onState,
		PingAfter:         milliseconds(f.PingAfter),
		PingTimeout:       milliseconds(f.PingTimeout),
	}
	if f.Offline != nil {
		config.Offline = client.Offline{MaxBytes: f.Offline.MaxBytes, Refuse: f.Offline.Refuse}
	}
	if f.BadToken {
		config.Token = "none"
	}
	if f.Token != nil {
		config.Token = r.world.authority.grant(*f.Token)
	}
	if len(f.GetToken) > 0 {
		var mu sync.Mutex
		grants := f.GetToken
		config.GetToken = func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			g := grants[0]
			if len(grants) > 1 {
				grants = grants[1:]
			}
			if g == nil {
				return "", errors.New("no token just now")
			}
			return r.world.authority.grant(*g), nil
		}
	}
	c, err := client.Dial(ctx, a.(Address).URL, config)
	if err != nil {
		return err
	}
	u.Client = c
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.clients[name]; old != nil {
		r.clients[fmt.Sprintf("%s, %d", name, len(r.clients))] = old // to be closed
	}
	r.clients[name] = u
	return nil
}

func (u *user) onState(s client.State, _ error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.states = append(u.states, s.String())
	close(u.changed)
	u.changed = make(chan struct{})
}

type clientFields struct {
	Client string `json:"client"`
}

func (r *run) closeClient(_ context.Context, f clientFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return u.Close()
}

type stateFields struct {
	Client string `json:"client"`
	Is     string `json:"is"`
	IsNot  string `json:"isNot"` // in place of Is
	// Only: it was in no other state since the last such step.
	Only bool `json:"only"`
	// Seen are states that it went through in this order since the last such step.
	Seen []string `json:"seen"`
}

// state waits for a state of a client.
func (r *run) state(ctx context.Context, f stateFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	for {
		u.mu.Lock()
		states, changed := u.states, u.changed
		u.mu.Unlock()
		if len(states) > 0 && (f.IsNot != "" && states[len(states)-1] != f.IsNot || states[len(states)-1] == f.Is) && subsequence(f.Seen, states) {
			if f.Only && len(states) > 1 {
				return mismatchf("the states were %v", states)
			}
			u.mu.Lock()
			u.states = u.states[len(states)-1:]
			u.mu.Unlock()
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return mismatchf("the states were %v", states)
		}
	}
}

// subsequence reports whether list has the elements of part in their order.
func subsequence(part, list []string) bool {
	for _, want := range part {
		i := slices.Index(list, want)
		if i < 0 {
			return false
		}
		list = list[i+1:]
	}
	return true
}

type authenticateFields struct {
	Client string `json:"client"`
	Token  *Grant `json:"token"` // nil: one that nobody knows
}

func (r *run) authenticate(ctx context.Context, f authenticateFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	token := "none"
	if f.Token != nil {
		token = r.world.authority.grant(*f.Token)
	}
	return u.Authenticate(ctx, token)
}

type sameClientFields struct {
	Client string `json:"client"`
	As     string `json:"as"` // keeps the id under this name
	Is     string `json:"is"` // the id is the one that was kept
	IsNot  string `json:"isNot"`
}

// clientID keeps a client id, or compares it with one that was kept.
func (r *run) clientID(_ context.Context, f sameClientFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	id := u.ID()
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := r.more.ids
	switch {
	case f.As != "":
		ids[f.As] = id
	case f.Is != "" && ids[f.Is] != id:
		return mismatchf("the client id is another one")
	case f.IsNot != "" && ids[f.IsNot] == id:
		return mismatchf("the client id is the same")
	}
	return nil
}

type waitFields struct {
	Ms int `json:"ms"`
}

// wait lets time pass, for what depends on it: expiry, ages.
func (r *run) wait(ctx context.Context, f waitFields) error {
	select {
	case <-time.After(time.Duration(f.Ms) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type nowFields struct {
	As string `json:"as"`
}

// now keeps the time.
func (r *run) now(_ context.Context, f nowFields) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times[f.As] = time.Now()
	return nil
}

type joinFields struct {
	Steps []string `json:"steps"`
}

// join waits for asynchronous steps, which must have succeeded.
func (r *run) join(ctx context.Context, f joinFields) error {
	for _, name := range f.Steps {
		r.mu.Lock()
		done := r.pending[name]
		delete(r.pending, name)
		r.mu.Unlock()
		if done == nil {
			return mismatchf("there is no step %q", name)
		}
		select {
		case err := <-done:
			if err != nil {
				return mismatchf("%s: %v", name, err)
			}
		case <-ctx.Done():
			return mismatchf("%s has no end", name)
		}
	}
	return nil
}

type sameFields struct {
	A  string `json:"a"`
	B  string `json:"b"`
	Is string `json:"is"` // equal, later (b than a, in one epoch), epoch, otherEpoch
}

// same compares two positions that were kept.
func (r *run) same(_ context.Context, f sameFields) error {
	a, err := r.position(f.A)
	if err != nil {
		return err
	}
	b, err := r.position(f.B)
	if err != nil {
		return err
	}
	var ok bool
	switch f.Is {
	case "equal":
		ok = a == b
	case "later":
		ok = a.Epoch == b.Epoch && a.Offset < b.Offset
	case "epoch":
		ok = a.Epoch == b.Epoch
	case "otherEpoch":
		ok = a.Epoch != b.Epoch
	default:
		return mismatchf("no way to compare is called %q", f.Is)
	}
	if !ok {
		return mismatchf("%v and %v are not: %s", a, b, f.Is)
	}
	return nil
}
