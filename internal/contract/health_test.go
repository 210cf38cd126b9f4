package contract

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
)

type healthFields struct {
	Client string `json:"client"`
	RTT    bool   `json:"rtt"` // it is known
	// Subs are, by subscription, what the broker holds and has dropped: bytes,
	// messages, conflated, dropped, each a number or the least and the most.
	Subs map[string]map[string]json.RawMessage `json:"subs"`
}

// health waits until the health is as the scenario says.
func (r *run) health(ctx context.Context, f healthFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		h, err := u.Health(ctx)
		if err != nil {
			return err
		}
		if f.RTT && h.RTT <= 0 {
			return mismatchf("the round trip is not known")
		}
		for _, name := range slices.Sorted(maps.Keys(f.Subs)) {
			s, err := r.reader(name)
			if err != nil {
				return err
			}
			sh, ok := h.Subscriptions[s.Subscription]
			if !ok {
				return mismatchf("nothing is told of subscription %q", name)
			}
			got := map[string]uint64{"bytes": sh.QueuedBytes, "messages": sh.QueuedMessages, "conflated": sh.Conflated, "dropped": sh.Dropped}
			for what, wanted := range f.Subs[name] {
				least, most, err := span(wanted)
				if err != nil {
					return err
				}
				if n, ok := got[what]; !ok || n < least || n > most {
					return mismatchf("%s of %q is %d; want %s (%+v)", what, name, n, wanted, sh)
				}
			}
		}
		return nil
	})
}

// span reads a number, or the least and the most.
func span(b json.RawMessage) (least, most uint64, err error) {
	if json.Unmarshal(b, &least) == nil {
		return least, least, nil
	}
	var both [2]uint64
	if err := json.Unmarshal(b, &both); err != nil {
		return 0, 0, mismatchf("%v", err)
	}
	return both[0], both[1], nil
}
