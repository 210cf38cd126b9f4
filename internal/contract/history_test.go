package contract

import (
	"context"

	"github.com/tidewire/tidewire/client"
)

type historyFields struct {
	Client   string `json:"client"`
	Topic    string `json:"topic"`
	From     *from  `json:"from"`
	Backward bool   `json:"backward"`
	Limit    int    `json:"limit"`
	// Items, or Count and Value, are those that the page begins with; it has no
	// others unless there are more pages, or AtMost says how many.
	Items  []want `json:"items"`
	Count  int    `json:"count"`
	Value  any    `json:"value"`
	AtMost int    `json:"atMost"`
	More   *bool  `json:"more"`
	As     string `json:"as"` // keeps where the next page begins
}

// history reads a page.
func (r *run) history(ctx context.Context, f historyFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	begin, err := r.from(f.From)
	if err != nil {
		return err
	}
	page, err := u.History(ctx, f.Topic, &client.HistoryOptions{From: begin, Backward: f.Backward, Limit: f.Limit})
	if err != nil {
		return err
	}
	wanted := numberedWants(f.Items, f.Count, f.Value)
	if len(page.Messages) < len(wanted) {
		return mismatchf("the page has %d items; want %d", len(page.Messages), len(wanted))
	}
	for i, w := range wanted {
		if err := r.check(w.want, w.n, page.Messages[i]); err != nil {
			return mismatchf("item %d, %s: %v", i+1, describe(page.Messages[i]), err)
		}
	}
	if most := max(f.AtMost, len(wanted)); len(page.Messages) > most {
		return mismatchf("the page has %d items; want at most %d", len(page.Messages), most)
	}
	if f.More != nil && *f.More != page.More {
		return mismatchf("more is %v", page.More)
	}
	if f.As != "" {
		r.mu.Lock()
		r.pages[f.As] = client.FromPosition(page.Next)
		r.mu.Unlock()
	}
	return nil
}

type mapFields struct {
	Client string `json:"client"`
	Topic  string `json:"topic"`
	As     string `json:"as"`
}

// openMap opens a live map.
func (r *run) openMap(ctx context.Context, f mapFields) error {
	u, err := r.user(f.Client)
	if err != nil {
		return err
	}
	m, err := client.OpenMap[any](ctx, u.Client, f.Topic, nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.more.maps[f.As] = m
	return nil
}

type expectMapFields struct {
	Map     string         `json:"map"`
	Entries map[string]any `json:"entries"`
}

// expectMap waits until a live map has these entries and no others.
func (r *run) expectMap(ctx context.Context, f expectMapFields) error {
	r.mu.Lock()
	m := r.more.maps[f.Map]
	r.mu.Unlock()
	if m == nil {
		return mismatchf("there is no map %q", f.Map)
	}
	return eventually(ctx, func() error {
		got := make(map[string]any)
		for key, e := range m.All() {
			got[key] = plain(e.Value)
		}
		if !equal(got, f.Entries) {
			return mismatchf("the map is %s; want %s", show(got), show(f.Entries))
		}
		return nil
	})
}
