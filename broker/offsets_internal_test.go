package broker

import "testing"

// The last offsets of a bounded number of keys are remembered: of those that were noted
// last.
func TestOffsetsAreBounded(t *testing.T) {
	var o offsets[int]
	const count = 20 * maxSlots
	for i := range count {
		o.note(i, uint64(i+1))
		if back := max(0, i-4*maxSlots+1); o.of(back) != uint64(back+1) {
			t.Fatalf("after %d keys that of %d is forgotten", i+1, back)
		}
	}
	if n := len(o.young) + len(o.old); n > 8*maxSlots {
		t.Errorf("%d keys are remembered", n)
	}
	o.note(count-1, 2*count)
	if o.of(count-1) != 2*count || o.of(0) != 0 {
		t.Errorf("the last offset is %d, and that of the first key %d", o.of(count-1), o.of(0))
	}
}
