// Package storetest tests what every broker.Store must do. The tests of a store
// call [Run], and may call [Fuzz].
//
// Each test runs in a bubble of testing/synctest, so that the ages of messages cost
// no time; a store that is opened must therefore not share goroutines with others.
package storetest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// Open makes an empty store that keeps about maxBytes at most.
type Open func(t *testing.T, maxBytes int64) broker.Store

// Run tests the stores that open makes.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"Empty", testEmpty},
		{"RecordsComeBackWhole", testWhole},
		{"LossyMessagesAreNoHistory", testLossy},
		{"TrimmedByCount", testCount},
		{"TrimmedByBytes", testBytes},
		{"TrimmedByAge", testAge},
		{"AgedWithoutBeingAsked", testSweep},
		{"NothingKept", testNothingKept},
		{"Pages", testPages},
		{"Seek", testSeek},
		{"SeekBeyondWhatIsKept", testSeekGone},
		{"LastValues", testLastValues},
		{"LastValuesExpire", testValuesExpire},
		{"LastValuesAreBounded", testValuesBounded},
		{"ExpiredMessagesStay", testExpired},
		{"TopicsAreApart", testTopicsApart},
		{"BoundedOverall", testBound},
		{"LastValuesGoLast", testValuesGoLast},
		{"FirmLastValuesGoAfterAll", testFirmValuesGoLast},
		{"EndedContext", testContext},
		{"Closed", testClosed},
		{"OneAppendsManyRead", testConcurrent},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, open, test.test)
		})
	}
	t.Run("AsTheModel", func(t *testing.T) {
		seed := rand.Uint64()
		for i := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, i))
			script := make([]byte, 600)
			for j := range script {
				script[j] = byte(r.Uint32())
			}
			bubble(t, open, func(t *testing.T, b *bench) { compare(t, b, script) })
			if t.Failed() {
				t.Fatalf("seed %d, run %d", seed, i)
			}
		}
	})
}

// Fuzz compares a store with a model of what it must do, as the fuzzer's bytes say.
func Fuzz(f *testing.F, open Open) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		script := make([]byte, 200)
		for j := range script {
			script[j] = byte(r.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		bubble(t, open, func(t *testing.T, b *bench) { compare(t, b, script) })
	})
}

// plenty is a bound that no test reaches by oversight.
const plenty = 64 << 20

// bench is a store and the clock of its broker.
type bench struct {
	open  func(maxBytes int64) broker.Store
	store broker.Store // of plenty
	start time.Time
}

func bubble(t *testing.T, open Open, test func(*testing.T, *bench)) {
	synctest.Test(t, func(t *testing.T) {
		opener := func(maxBytes int64) broker.Store {
			store := open(t, maxBytes)
			t.Cleanup(func() {
				if err := store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			return store
		}
		b := &bench{open: opener, store: opener(plenty), start: time.Now()}
		time.Sleep(time.Hour) // a broker that has run for a while
		test(t, b)
	})
}

func (b *bench) now() uint64 { return uint64(time.Since(b.start) / time.Millisecond) }

// limits are bounds of a log that are out of reach.
func limits() broker.LogLimits {
	return broker.LogLimits{Retention: broker.Retention{Count: 1 << 20}, Keys: 1 << 20}
}

// log opens a log whose limits are changed.
func (b *bench) log(change ...func(*broker.LogLimits)) broker.Log {
	l := limits()
	for _, f := range change {
		f(&l)
	}
	return b.store.Open("topic", 7, l)
}

// record is a reliable message with a payload.
func (b *bench) record(offset uint64, payload string) broker.Record {
	return broker.Record{
		Message: broker.Message{Topic: "topic", Payload: codec.Text(payload)},
		Offset:  offset, Time: b.now(),
	}
}

// fill appends reliable messages with offsets from first to last.
func (b *bench) fill(l broker.Log, first, last uint64) {
	for o := first; o <= last; o++ {
		l.Append(b.record(o, strconv.FormatUint(o, 10)))
	}
}

func offsets(records []broker.Record) []uint64 {
	list := []uint64{}
	for _, r := range records {
		list = append(list, r.Offset)
	}
	return list
}

// span is the offsets from first to last.
func span(first, last uint64) []uint64 {
	list := []uint64{}
	for o := first; o <= last; o++ {
		list = append(list, o)
	}
	return list
}

// wantHistory checks all that a log gives, and what it says is gone.
func wantHistory(t *testing.T, l broker.Log, want []uint64, wantBase uint64) {
	t.Helper()
	got, base, err := l.Read(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
	if err != nil || !slices.Equal(offsets(got), want) || base != wantBase {
		t.Errorf("the history has %v, and up to %d is gone (%v); want %v, %d", offsets(got), base, err, want, wantBase)
	}
	back, base, err := l.ReadBack(t.Context(), math.MaxInt64, math.MaxInt, math.MaxInt)
	list := offsets(back)
	slices.Reverse(list)
	if err != nil || !slices.Equal(list, want) || base != wantBase {
		t.Errorf("backward the history has %v, and up to %d is gone (%v); want %v, %d", list, base, err, want, wantBase)
	}
}

func wantSeek(t *testing.T, l broker.Log, from codec.From, want uint64) {
	t.Helper()
	if got, err := l.Seek(t.Context(), from); err != nil || got != want {
		t.Errorf("seek %+v: after %d (%v), want %d", from, got, err, want)
	}
}

func wantValues(t *testing.T, l broker.Log, want ...uint64) {
	t.Helper()
	got, err := l.Retained(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
	if err != nil || !slices.Equal(offsets(got), append([]uint64{}, want...)) {
		t.Errorf("the last values are %v (%v), want %v", offsets(got), err, want)
	}
}

func testEmpty(t *testing.T, b *bench) {
	l := b.log()
	wantHistory(t, l, span(1, 0), 0)
	wantValues(t, l)
	wantSeek(t, l, codec.From{Kind: codec.FromLast, N: 5}, 0)
	wantSeek(t, l, codec.From{Kind: codec.FromTime, Time: 5}, 0)
	wantSeek(t, l, codec.From{Kind: codec.FromBeginning}, 0)
	wantSeek(t, l, codec.From{}, 0)
	if !l.Empty() || b.store.Bytes() != 0 || b.store.Evicted() != 0 {
		t.Errorf("an empty log: Empty %v, %d bytes, %d evicted", l.Empty(), b.store.Bytes(), b.store.Evicted())
	}
	if _, err := l.Seek(t.Context(), codec.From{Kind: codec.FromPositions}); err == nil {
		t.Error("seeking from positions is no error")
	}
}

func testWhole(t *testing.T, b *bench) {
	l := b.log()
	plain := b.record(1, "plain")
	full := broker.Record{
		Message: broker.Message{
			Topic: "topic", Mode: codec.ModeReliable, Payload: codec.Payload{Encoding: codec.EncodingJSON, Data: []byte(`{"a":1}`)},
			Publisher: codec.ID{1, 2, 3}, Key: "k", Expires: b.now() + 1000, Headers: codec.Headers{{Name: "n", Value: "v"}},
			Retain: true, ID: "id", Reply: []byte("reply"),
		},
		Offset: 2, Time: b.now(),
	}
	l.Append(plain)
	l.Append(full)
	got, _, err := l.Read(t.Context(), 0, 2, 10, 1000)
	values, err2 := l.Retained(t.Context(), 0, 2, 10, 1000)
	back, _, err3 := l.ReadBack(t.Context(), 3, 10, 1000)
	if err != nil || err2 != nil || err3 != nil || len(got) != 2 || len(values) != 1 || len(back) != 2 {
		t.Fatalf("read %d (%v), retained %d (%v), back %d (%v)", len(got), err, len(values), err2, len(back), err3)
	}
	for i, pair := range [][2]broker.Record{{got[0], plain}, {got[1], full}, {values[0], full}, {back[0], full}, {back[1], plain}} {
		if g, w := fmt.Sprintf("%+v", pair[0]), fmt.Sprintf("%+v", pair[1]); g != w {
			t.Errorf("%d: record\n %s, want\n %s", i, g, w)
		}
	}
}

func testLossy(t *testing.T, b *bench) {
	l := b.log()
	b.fill(l, 1, 1)
	lossy := b.record(2, "lossy")
	lossy.Mode, lossy.Reliable = codec.ModeLossy, codec.Some(1)
	l.Append(lossy)
	b.fill(l, 3, 3)
	wantHistory(t, l, []uint64{1, 3}, 0)
	wantSeek(t, l, codec.From{Kind: codec.FromLast, N: 1}, 1)
}

func testCount(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Count = 3 })
	b.fill(l, 1, 3)
	wantHistory(t, l, span(1, 3), 0)
	b.fill(l, 4, 10)
	wantHistory(t, l, span(8, 10), 7)
	if got, base, err := l.Read(t.Context(), 7, 10, 100, 1000); err != nil || len(got) != 3 || base != 7 {
		t.Errorf("after the last that is gone: %v, %d, %v", offsets(got), base, err)
	}
}

func testBytes(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Bytes = 1000 })
	payload := string(make([]byte, 300))
	for o := uint64(1); o <= 5; o++ {
		l.Append(b.record(o, payload))
	}
	wantHistory(t, l, span(3, 5), 2)
	l.Append(b.record(6, string(make([]byte, 1000)))) // just what is allowed
	wantHistory(t, l, span(6, 6), 5)
	l.Append(b.record(7, string(make([]byte, 1001))))
	wantHistory(t, l, span(1, 0), 7)
	r := b.record(8, "")
	r.Key, r.Headers = string(make([]byte, 200)), codec.Headers{{Name: "n", Value: string(make([]byte, 400))}}
	l.Append(r)
	r.Offset++
	l.Append(r)
	wantHistory(t, l, span(9, 9), 8) // keys and headers count
}

func testAge(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Age = time.Minute })
	for o := uint64(1); o <= 5; o++ {
		b.fill(l, o, o)
		time.Sleep(10 * time.Second)
	}
	// They are 50, 40, 30, 20, 10 s old.
	wantHistory(t, l, span(1, 5), 0)
	time.Sleep(15 * time.Second)
	wantHistory(t, l, span(2, 5), 1)
	b.fill(l, 6, 6)
	wantHistory(t, l, span(2, 6), 1)
	time.Sleep(time.Hour)
	wantHistory(t, l, span(1, 0), 6)
	b.fill(l, 7, 7)
	wantHistory(t, l, span(7, 7), 6)
}

func testSweep(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Age = time.Minute })
	value := b.record(1, "value")
	value.Retain, value.Expires = true, b.now()+uint64(30*time.Second/time.Millisecond)
	l.Append(value)
	b.fill(l, 2, 20)
	if b.store.Bytes() == 0 || l.Empty() {
		t.Error("what was appended is not counted")
	}
	time.Sleep(2 * time.Minute)
	synctest.Wait()
	if n := b.store.Bytes(); n != 0 || !l.Empty() {
		t.Errorf("%d bytes are left when all has aged, without anybody asking", n)
	}
}

func testNothingKept(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Count, l.Keys = 0, 0 })
	r := b.record(1, "a")
	r.Retain = true
	l.Append(r)
	b.fill(l, 2, 3)
	wantHistory(t, l, span(1, 0), 3)
	wantValues(t, l)
	wantSeek(t, l, codec.From{Kind: codec.FromBeginning}, 3)
	if !l.Empty() || b.store.Bytes() != 0 {
		t.Errorf("a log that may keep nothing has %d bytes", b.store.Bytes())
	}
	values := b.log(func(l *broker.LogLimits) { l.Count = 0 })
	r.Offset = 4
	values.Append(r)
	wantHistory(t, values, span(1, 0), 4)
	wantValues(t, values, 4)
}

func testPages(t *testing.T, b *bench) {
	l := b.log()
	payload := string(make([]byte, 100))
	for o := uint64(2); o <= 60; o += 2 {
		l.Append(b.record(o, payload))
	}
	read := func(after, to uint64, limit, bytes int) []uint64 {
		t.Helper()
		got, _, err := l.Read(t.Context(), after, to, limit, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return offsets(got)
	}
	back := func(before uint64, limit, bytes int) []uint64 {
		t.Helper()
		got, _, err := l.ReadBack(t.Context(), before, limit, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return offsets(got)
	}
	for i, test := range []struct{ got, want []uint64 }{
		{read(0, 60, 3, 1000), []uint64{2, 4, 6}},
		{read(2, 60, 2, 1000), []uint64{4, 6}},
		{read(3, 60, 2, 1000), []uint64{4, 6}},
		{read(3, 7, 10, 1000), []uint64{4, 6}},
		{read(3, 8, 10, 1000), []uint64{4, 6, 8}},
		{read(3, 3, 10, 1000), []uint64{}},
		{read(9, 3, 10, 1000), []uint64{}},
		{read(60, 100, 10, 1000), []uint64{}},
		{read(58, math.MaxInt64, 10, 1000), []uint64{60}},
		{read(0, 60, 10, 250), []uint64{2, 4}},
		{read(0, 60, 10, 1), []uint64{2}}, // one at least
		{read(0, 60, 10, 0), []uint64{2}},
		{back(0, 10, 1000), []uint64{}},
		{back(2, 10, 1000), []uint64{}},
		{back(3, 10, 1000), []uint64{2}},
		{back(10, 2, 1000), []uint64{8, 6}},
		{back(9, 2, 1000), []uint64{8, 6}},
		{back(math.MaxInt64, 2, 1000), []uint64{60, 58}},
		{back(10, 10, 1), []uint64{8}},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%d: page %v, want %v", i, test.got, test.want)
		}
	}
}

func testSeek(t *testing.T, b *bench) {
	l := b.log()
	times := make(map[uint64]uint64)
	for o := uint64(10); o <= 14; o++ {
		times[o] = b.now()
		b.fill(l, o, o)
		time.Sleep(time.Second)
	}
	last := func(n uint64) codec.From { return codec.From{Kind: codec.FromLast, N: n} }
	since := func(ms uint64) codec.From { return codec.From{Kind: codec.FromTime, Time: ms} }
	wantSeek(t, l, codec.From{}, 14)
	wantSeek(t, l, last(0), 14)
	wantSeek(t, l, last(1), 13)
	wantSeek(t, l, last(4), 10)
	wantSeek(t, l, last(5), 0)
	wantSeek(t, l, last(codec.MaxLast), 0)
	wantSeek(t, l, codec.From{Kind: codec.FromBeginning}, 0)
	wantSeek(t, l, since(0), 0)
	wantSeek(t, l, since(times[10]), 0)
	wantSeek(t, l, since(times[10]+1), 10)
	wantSeek(t, l, since(times[14]), 13)
	wantSeek(t, l, since(times[14]+1), 14)
	wantSeek(t, l, since(math.MaxInt64), 14)
}

func testSeekGone(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Count = 2 })
	b.fill(l, 1, 2)
	time.Sleep(time.Second)
	gone := b.now()
	b.fill(l, 3, 3)
	time.Sleep(time.Second)
	kept := b.now()
	b.fill(l, 4, 5)
	wantHistory(t, l, []uint64{4, 5}, 3)
	wantSeek(t, l, codec.From{Kind: codec.FromLast, N: 9}, 3)
	wantSeek(t, l, codec.From{Kind: codec.FromBeginning}, 3)
	wantSeek(t, l, codec.From{Kind: codec.FromTime, Time: gone}, 0) // some are gone
	wantSeek(t, l, codec.From{Kind: codec.FromTime, Time: gone + 1}, 3)
	wantSeek(t, l, codec.From{Kind: codec.FromTime, Time: kept + 1}, 5)
}

// retain appends a message that is the last value of a key.
func (b *bench) retain(l broker.Log, offset uint64, key, payload string) {
	r := b.record(offset, payload)
	r.Retain, r.Key = true, key
	l.Append(r)
}

func testLastValues(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Count = 2 })
	b.retain(l, 1, "", "topic's")
	b.retain(l, 2, "a", "1")
	b.retain(l, 3, "b", "1")
	b.fill(l, 4, 4)
	b.retain(l, 5, "a", "2")
	wantValues(t, l, 1, 3, 5) // whatever the history has
	wantHistory(t, l, []uint64{4, 5}, 3)
	page := func(after, to uint64, limit, bytes int, want ...uint64) {
		t.Helper()
		got, err := l.Retained(t.Context(), after, to, limit, bytes)
		if err != nil || !slices.Equal(offsets(got), append([]uint64{}, want...)) {
			t.Errorf("last values in (%d, %d]: %v (%v), want %v", after, to, offsets(got), err, want)
		}
	}
	page(0, 5, 2, 1000, 1, 3)
	page(3, 5, 2, 1000, 5)
	page(0, 4, 9, 1000, 1, 3)
	page(1, 3, 9, 1000, 3)
	page(2, 2, 9, 1000)
	page(5, 9, 9, 1000)
	page(0, 5, 9, 1, 1)
	b.retain(l, 6, "b", "") // cleared
	wantValues(t, l, 1, 5)
	b.retain(l, 7, "never was", "")
	b.retain(l, 8, "", "")
	wantValues(t, l, 5)
	b.retain(l, 9, "b", "3")
	wantValues(t, l, 5, 9)
	wantHistory(t, l, []uint64{8, 9}, 7) // what clears is a message too
}

func testValuesExpire(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Count = 0 })
	for o := uint64(1); o <= 5; o++ {
		r := b.record(o, "v")
		r.Retain, r.Key = true, strconv.FormatUint(o, 10)
		if o != 3 {
			r.Expires = b.now() + o*1000
		}
		l.Append(r)
	}
	wantValues(t, l, 1, 2, 3, 4, 5)
	time.Sleep(time.Second)
	wantValues(t, l, 2, 3, 4, 5)
	time.Sleep(time.Second)
	b.retain(l, 6, "4", "renewed")
	wantValues(t, l, 3, 5, 6)
	time.Sleep(time.Hour)
	wantValues(t, l, 3, 6)
}

func testValuesBounded(t *testing.T, b *bench) {
	l := b.log(func(l *broker.LogLimits) { l.Keys = 3 })
	for o := uint64(1); o <= 10; o++ {
		b.retain(l, o, fmt.Sprint("k", o), "v")
	}
	wantValues(t, l, 8, 9, 10)
	if n := b.store.Evicted(); n != 7 {
		t.Errorf("%d last values are counted as evicted, want 7", n)
	}
	b.retain(l, 11, "k8", "v") // no new key
	wantValues(t, l, 9, 10, 11)
	if n := b.store.Evicted(); n != 7 {
		t.Errorf("a value that was replaced counts as evicted: %d", n)
	}
}

func testExpired(t *testing.T, b *bench) {
	l := b.log()
	r := b.record(1, "short")
	r.Expires = b.now() + 1
	l.Append(r)
	b.fill(l, 2, 2)
	time.Sleep(time.Minute)
	wantHistory(t, l, span(1, 2), 0) // the reader drops it
}

func testTopicsApart(t *testing.T, b *bench) {
	one, two := b.store.Open("one", 1, limits()), b.store.Open("two", 2, limits())
	b.fill(one, 1, 3)
	b.retain(two, 1, "k", "v")
	wantHistory(t, one, span(1, 3), 0)
	wantHistory(t, two, span(1, 1), 0)
	wantValues(t, one)
	one.Close()
	wantHistory(t, two, span(1, 1), 0)
	again := b.store.Open("one", 3, limits())
	wantHistory(t, again, span(1, 0), 0)
	if again.Append(b.record(1, "new")); again.Empty() {
		t.Error("a log that was opened again keeps nothing")
	}
	again.Close()
	two.Close()
	if n := b.store.Bytes(); n != 0 {
		t.Errorf("%d bytes are left when all logs are closed", n)
	}
}

func testBound(t *testing.T, b *bench) {
	const most = 256 << 10
	store := b.open(most)
	logs := make([]broker.Log, 40)
	for i := range logs {
		logs[i] = store.Open(strconv.Itoa(i), 1, limits())
	}
	payload := string(make([]byte, 500))
	for o := uint64(1); o <= 60; o++ {
		for i, l := range logs {
			if i%2 == 1 && o > 5 {
				continue // half of them fall silent
			}
			l.Append(b.record(o, payload))
			time.Sleep(time.Millisecond)
			if n := store.Bytes(); n > most {
				t.Fatalf("%d bytes, the bound is %d", n, most)
			}
		}
	}
	total := 0
	for i, l := range logs {
		got, base, err := l.Read(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
		last := uint64(60)
		if i%2 == 1 {
			last = 5
		}
		if err != nil || !slices.Equal(offsets(got), span(base+1, last)) {
			t.Errorf("log %d has %v, and up to %d is gone (%v)", i, offsets(got), base, err)
		}
		total += len(got)
		if i%2 == 1 && len(got) > 0 {
			t.Errorf("log %d keeps %d old messages, while newer ones went", i, len(got))
		}
	}
	if total < most/2/1000 {
		t.Errorf("%d messages of 500 bytes are kept within %d bytes", total, most)
	}
	// One that is larger than all there is.
	logs[0].Append(b.record(61, string(make([]byte, most))))
	if n := store.Bytes(); n > most {
		t.Errorf("%d bytes, the bound is %d", n, most)
	}
}

func testValuesGoLast(t *testing.T, b *bench) {
	const most = 64 << 10
	store := b.open(most)
	values := store.Open("values", 1, broker.LogLimits{Keys: 1000})
	for o := uint64(1); o <= 10; o++ {
		b.retain(values, o, strconv.FormatUint(o, 10), "v")
	}
	time.Sleep(time.Second)
	history := store.Open("history", 1, limits())
	for o := uint64(1); o <= 500; o++ {
		history.Append(b.record(o, string(make([]byte, 500))))
	}
	wantValues(t, values, span(1, 10)...)
	if n := store.Evicted(); n != 0 {
		t.Errorf("%d last values went before older messages", n)
	}
	for o := uint64(11); o <= 400; o++ {
		b.retain(values, o, strconv.FormatUint(o, 10), string(make([]byte, 500)))
		if n := store.Bytes(); n > most {
			t.Fatalf("%d bytes, the bound is %d", n, most)
		}
	}
	got, err := values.Retained(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
	if err != nil || len(got) == 0 || !slices.Equal(offsets(got), span(got[0].Offset, 400)) || store.Evicted() != got[0].Offset-1 {
		t.Errorf("%d last values are left (%v), %d are counted as evicted", len(got), err, store.Evicted())
	}
}

func testFirmValuesGoLast(t *testing.T, b *bench) {
	const most = 64 << 10
	store := b.open(most)
	firm := store.Open("firm", 1, broker.LogLimits{Retention: broker.Retention{Count: 1 << 20}, Keys: 1000, Firm: true})
	for o := uint64(1); o <= 10; o++ {
		b.retain(firm, o, strconv.FormatUint(o, 10), string(make([]byte, 500)))
	}
	time.Sleep(time.Second)
	values := store.Open("values", 1, broker.LogLimits{Keys: 1000})
	for o := uint64(1); o <= 400; o++ {
		b.retain(values, o, strconv.FormatUint(o, 10), string(make([]byte, 500)))
	}
	wantValues(t, firm, span(1, 10)...)
	got, err := values.Retained(t.Context(), 0, math.MaxInt64, math.MaxInt, math.MaxInt)
	if err != nil || len(got) == 0 || store.Evicted() != uint64(400-len(got)) {
		t.Errorf("%d last values are left (%v), %d are counted as evicted", len(got), err, store.Evicted())
	}
	if page, base, err := firm.Read(t.Context(), 0, 10, 100, 1<<20); err != nil || len(page) > 0 || base != 10 {
		t.Errorf("of the firm log's history %d messages are left, base %d, %v", len(page), base, err)
	}
	for o := uint64(11); o <= 400; o++ {
		b.retain(firm, o, strconv.FormatUint(o, 10), string(make([]byte, 500)))
		if n := store.Bytes(); n > most {
			t.Fatalf("%d bytes, the bound is %d", n, most)
		}
	}
}

func testContext(t *testing.T, b *bench) {
	l := b.log()
	b.fill(l, 1, 3)
	ctx, cancel := contextThatEnds(t)
	cancel()
	_, _, err := l.Read(ctx, 0, 3, 1, 1)
	_, _, err2 := l.ReadBack(ctx, 3, 1, 1)
	_, err3 := l.Seek(ctx, codec.From{Kind: codec.FromBeginning})
	_, err4 := l.Retained(ctx, 0, 3, 1, 1)
	for i, err := range []error{err, err2, err3, err4} {
		if err == nil {
			t.Errorf("read %d with an ended context is no error", i)
		}
	}
}

func testClosed(t *testing.T, b *bench) {
	l := b.log()
	b.fill(l, 1, 3)
	b.retain(l, 4, "k", "v")
	l.Close()
	l.Close()
	b.fill(l, 5, 6)
	_, _, err := l.Read(t.Context(), 0, 3, 1, 1)
	_, _, err2 := l.ReadBack(t.Context(), 3, 1, 1)
	_, err3 := l.Seek(t.Context(), codec.From{Kind: codec.FromBeginning})
	_, err4 := l.Retained(t.Context(), 0, 3, 1, 1)
	for i, err := range []error{err, err2, err3, err4} {
		if !errors.Is(err, broker.ErrLogClosed) {
			t.Errorf("read %d of a closed log: %v", i, err)
		}
	}
	if n := b.store.Bytes(); n != 0 || !l.Empty() {
		t.Errorf("a closed log has %d bytes", n)
	}
}

// A reader that has learned an offset under the topic's lock finds its message, and
// what it reads has no holes but those that base tells.
func testConcurrent(t *testing.T, b *bench) {
	store := b.open(512 << 10)
	const topics, messages = 4, 3000
	var wg sync.WaitGroup
	for i := range topics {
		l := store.Open(strconv.Itoa(i), 1, broker.LogLimits{Retention: broker.Retention{Count: 400, Age: time.Hour}, Keys: 10})
		var mu sync.Mutex // as the topic's
		last := uint64(0)
		ended := make(chan struct{})
		wg.Go(func() {
			defer close(ended)
			for o := uint64(1); o <= messages; o++ {
				r := b.record(o, "0123456789")
				r.Retain, r.Key = o%3 == 0, strconv.FormatUint(o%30, 10)
				mu.Lock()
				l.Append(r)
				last = o
				mu.Unlock()
			}
		})
		for range 2 {
			wg.Go(func() {
				for at := uint64(0); ; {
					select {
					case <-ended:
						return
					default:
					}
					mu.Lock()
					to := last
					mu.Unlock()
					got, base, err := l.Read(t.Context(), at, to, 50, 1<<20)
					if err != nil {
						t.Errorf("Read: %v", err)
						return
					}
					first := max(at, base) + 1
					if list := offsets(got); !slices.Equal(list, span(first, first+uint64(len(list))-1)) || len(list) == 0 && to > max(at, base) {
						t.Errorf("after %d up to %d, base %d: %v", at, to, base, list)
						return
					}
					at = max(at, base) + uint64(len(got))
					values, err := l.Retained(t.Context(), 0, to, 100, 1<<20)
					if err != nil || len(values) > 10 || !slices.IsSorted(offsets(values)) {
						t.Errorf("last values %v (%v)", offsets(values), err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if n := store.Bytes(); n > 512<<10 {
		t.Errorf("%d bytes, the bound is %d", n, 512<<10)
	}
}
