package broker

import (
	"iter"
	"math"
	"slices"
	"sort"
	"unsafe"

	"github.com/tidewire/tidewire/codec"
)

// logItem is a record as a memoryLog keeps it: without its topic, and with what few
// messages have set apart.
type logItem struct {
	data      []byte
	rest      *logItemRest // nil: all of it is zero
	offset    uint64
	time      uint64
	publisher codec.ID
	encoding  codec.Encoding
	mode      codec.Mode
	retain    bool
}

// logItemRest is what few messages have.
type logItemRest struct {
	key      string
	id       string
	expires  uint64
	headers  codec.Headers
	reply    []byte
	reliable codec.Optional
}

func newLogItem(r *Record) logItem {
	it := logItem{
		data: r.Payload.Data, offset: r.Offset, time: r.Time,
		publisher: r.Publisher, encoding: r.Payload.Encoding, mode: r.Mode, retain: r.Retain,
	}
	if r.Key != "" || r.ID != "" || r.Expires != 0 || len(r.Headers) > 0 || len(r.Reply) > 0 || r.Reliable.Set {
		it.rest = &logItemRest{r.Key, r.ID, r.Expires, r.Headers, r.Reply, r.Reliable}
	}
	return it
}

// record returns the item as it came.
func (it *logItem) record(topic string) Record {
	r := Record{
		Message: Message{
			Topic: topic, Mode: it.mode, Payload: codec.Payload{Encoding: it.encoding, Data: it.data},
			Publisher: it.publisher, Retain: it.retain,
		},
		Offset: it.offset, Time: it.time,
	}
	if x := it.rest; x != nil {
		r.Key, r.ID, r.Expires, r.Headers, r.Reply, r.Reliable = x.key, x.id, x.expires, x.headers, x.reply, x.reliable
	}
	return r
}

// size is what Retention.Bytes counts.
func (it *logItem) size() int {
	n := len(it.data)
	if it.rest != nil {
		n += len(it.rest.key)
		for _, h := range it.rest.headers {
			n += len(h.Name) + len(h.Value)
		}
	}
	return n
}

// cost is about how much memory the item takes.
func (it *logItem) cost() int {
	n := int(unsafe.Sizeof(*it)) + it.size()
	if x := it.rest; x != nil {
		n += int(unsafe.Sizeof(*x)) + len(x.id) + len(x.reply) + len(x.headers)*int(unsafe.Sizeof(codec.Header{}))
	}
	return n
}

// logRing is a queue of items in one circular buffer, in order of offsets and times.
// Against a slice of which the front is cut off it is never copied while its length
// stays, as that of a full history does.
type logRing struct {
	items []logItem // its length is a power of two, or 0
	head  int
	n     int
}

func (r *logRing) len() int { return r.n }

// at returns the i-th oldest item.
func (r *logRing) at(i int) *logItem { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *logRing) push(it logItem) {
	if r.n == len(r.items) {
		r.resize(max(4, 2*r.n))
	}
	r.n++
	*r.at(r.n - 1) = it
}

// pop removes the oldest item.
func (r *logRing) pop() logItem {
	it := *r.at(0)
	*r.at(0) = logItem{}
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.n--
	if len(r.items) > 16 && r.n < len(r.items)/4 {
		r.resize(len(r.items) / 2)
	}
	return it
}

func (r *logRing) resize(size int) {
	items := make([]logItem, size)
	for i := range r.n {
		items[i] = *r.at(i)
	}
	r.items, r.head = items, 0
}

// after returns the index of the first item with an offset above offset.
func (r *logRing) after(offset uint64) int {
	return sort.Search(r.n, func(i int) bool { return r.at(i).offset > offset })
}

// since returns the index of the first item that is not older than time.
func (r *logRing) since(time uint64) int {
	return sort.Search(r.n, func(i int) bool { return r.at(i).time >= time })
}

// lastValues are the last values of a log.
type lastValues struct {
	byKey map[string]*logItem
	// order has the items of byKey by offset; one that was replaced leaves nil.
	order []valueSlot
	cost  int
	soon  uint64 // no value expires before; 0: none does
}

// valueSlot is an item's place in the order.
type valueSlot struct {
	offset uint64
	key    string
	item   *logItem
}

// valueOverhead is about what a last value takes beside its item.
const valueOverhead = 120

// set makes it the value of its key, or clears the key if the payload is empty. It
// returns by how much the values have grown.
func (v *lastValues) set(key string, it logItem) int {
	before := v.cost
	if old := v.byKey[key]; old != nil {
		v.remove(v.index(old.offset))
	}
	if len(it.data) == 0 {
		return v.cost - before
	}
	if v.byKey == nil {
		v.byKey = make(map[string]*logItem)
	}
	if len(v.order) == cap(v.order) && len(v.order) > 2*len(v.byKey) {
		v.order = slices.DeleteFunc(v.order, func(s valueSlot) bool { return s.item == nil })
	}
	v.byKey[key] = &it
	v.order = append(v.order, valueSlot{it.offset, key, &it})
	v.cost += it.cost() + valueOverhead
	if it.rest != nil && it.rest.expires > 0 && (v.soon == 0 || it.rest.expires < v.soon) {
		v.soon = it.rest.expires
	}
	return v.cost - before
}

// index returns the place of the first slot with an offset not below offset.
func (v *lastValues) index(offset uint64) int {
	return sort.Search(len(v.order), func(i int) bool { return v.order[i].offset >= offset })
}

// remove takes the i-th of the order out.
func (v *lastValues) remove(i int) {
	s := &v.order[i]
	v.cost -= s.item.cost() + valueOverhead
	delete(v.byKey, s.key)
	s.item, s.key = nil, ""
	v.cut()
}

// cut takes the empty slots in front off, so that the oldest value is the first.
func (v *lastValues) cut() {
	i := 0
	for i < len(v.order) && v.order[i].item == nil {
		i++
	}
	v.order = v.order[i:]
}

// oldest returns the value with the least offset. There must be one.
func (v *lastValues) oldest() *logItem { return v.order[0].item }

// dropOldest removes the oldest value, and returns what it has cost.
func (v *lastValues) dropOldest() int {
	before := v.cost
	v.remove(0)
	return before - v.cost
}

// expiring reports whether time alone takes something.
func (v *lastValues) expiring() bool { return v.soon > 0 }

// expire removes what has expired, and returns what it has cost.
func (v *lastValues) expire(now uint64) int {
	if v.soon == 0 || now < v.soon {
		return 0
	}
	before := v.cost
	soon := uint64(math.MaxUint64)
	for i := range v.order {
		s := &v.order[i]
		if s.item == nil || s.item.rest == nil || s.item.rest.expires == 0 {
			continue
		}
		if e := s.item.rest.expires; e > now {
			soon = min(soon, e)
			continue
		}
		v.cost -= s.item.cost() + valueOverhead
		delete(v.byKey, s.key)
		s.item, s.key = nil, ""
	}
	v.cut()
	v.soon = soon
	if soon == math.MaxUint64 {
		v.soon = 0
	}
	return before - v.cost
}

// after yields the values with offsets above offset, the oldest first.
func (v *lastValues) after(offset uint64) iter.Seq[*logItem] {
	return func(yield func(*logItem) bool) {
		first := sort.Search(len(v.order), func(i int) bool { return v.order[i].offset > offset })
		for _, s := range v.order[first:] {
			if s.item != nil && !yield(s.item) {
				return
			}
		}
	}
}
