package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

// leastHistory is the least --max-history that is of use, in bytes.
const leastHistory = 64 << 10

// check refuses what cannot work. maxPayload is the broker's.
func (f topicFlags) check(maxPayload byteSize) error {
	if f.MaxHistory < leastHistory {
		return usagef("--max-history %v is too little to keep anything: give at least 64KiB, or, to keep nothing, --topic '> history=off retain=none'", f.MaxHistory)
	}
	for _, t := range f.Topic {
		if int64(t.MaxPayload) > int64(maxPayload) {
			return usagef("topics %q: max-payload %v is above --max-payload %v: raise that, and give other topics a lower one", t.Pattern, byteSize(t.MaxPayload), maxPayload)
		}
	}
	return nil
}

// surprises tells what works, and perhaps not as it was meant.
func (f topicFlags) surprises(maxPayload byteSize) (list []string) {
	if f.MaxHistory < maxPayload {
		list = append(list, "--max-history is below --max-payload: longer messages are not kept at all")
	}
	for _, t := range f.Topic {
		say := func(odd bool, format string, args ...any) {
			if odd {
				list = append(list, fmt.Sprintf("topics %q: ", t.Pattern)+fmt.Sprintf(format, args...))
			}
		}
		off := t.History.Count < 0
		say(off && (t.History.Age != 0 || t.History.Bytes != 0), "history-age and history-bytes mean nothing with history=off")
		say(!off && t.History.Age > 0 && t.TTL > t.History.Age, "ttl is above history-age, after which a message is not kept, expired or not")
		say(int64(t.History.Bytes) > int64(f.MaxHistory), "history-bytes is above --max-history, which bounds all topics together")
		say(t.History.Bytes > 0 && t.MaxPayload > t.History.Bytes, "history-bytes is below max-payload: longer messages are not kept at all")
		say(t.Class == codec.ClassUnreliable && t.History.Count > 0, "subscribers of class unreliable get nothing of the history; only pages show it")
		say(t.Retain == broker.RetainNone && t.MaxKeys > 0, "max-keys means nothing with retain=none")
		say(t.Presence == broker.PresenceOff && (t.PresenceGrace != 0 || t.MaxMembers != 0), "presence-grace and max-members mean nothing with presence=off")
		say(t.Deduplicate > 0 && t.Deduplicate < shortWindow,
			"deduplicate is below %v: what has no answer when a connection is lost often comes too late to be recognized, and fails with connection_lost", shortWindow)
		say(codec.IsSystem(t.Pattern), "topics of the system, whose first token begins with $ or _, are for no client; presence follows the topic that it is of")
	}
	return list
}

// shortWindow is how long it may take until a client has noticed that its connection is
// lost, and is back.
const shortWindow = 30 * time.Second

// reasonOf is what a coded error says, without its code: the user of a command has no use
// for that.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*codec.Error](err); ok && e.Reason != "" {
		return e.Reason
	}
	return err.Error()
}
