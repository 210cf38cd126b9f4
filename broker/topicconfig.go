package broker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// TopicConfig is what holds for the topics that a pattern matches. Where several
// patterns match a topic the most specific one holds, and it holds as a whole: its
// zero fields have their defaults, whatever the others say. The most specific
// pattern is the one with more tokens, then with fewer wildcards, then without >.
// Two that are equal in this and match a common topic are an error.
//
// Topics that no pattern matches have the defaults.
type TopicConfig struct {
	// Pattern is the topics that this is for (PROTOCOL §3).
	Pattern string
	// Class bounds the class of subscriptions: the weaker of the two is in force
	// (PROTOCOL §6.1). The zero value is reliable, which leaves each its own.
	Class codec.Class
	// History is what is kept of the reliable messages. Count below 0 keeps nothing:
	// then subscribers that come back after an interruption get a gap.
	History Retention
	// Retain tells which messages are last values (PROTOCOL §4.5).
	Retain RetainMode
	// MaxKeys bounds the last values of a topic, each of another key; the oldest one
	// gives way, and is counted in Stats.ValuesEvicted. 0 is 1,024.
	MaxKeys int
	// Presence tells what the topic knows of who is present (PROTOCOL §7.8).
	Presence PresenceMode
	// PresenceGrace is how long a session whose connection was lost stays present. 0
	// is 10 s; below 0 it leaves at once.
	PresenceGrace time.Duration
	// MaxMembers bounds the sessions that are present at a time. 0 is 1,000.
	MaxMembers int
	// Deduplicate is how long messages are remembered, so that one that is published
	// again is not delivered again (PROTOCOL §7.6). What a client sends again when that
	// time is over, or about to be, is refused. 0 is 2 minutes; below 0 they are not
	// remembered.
	Deduplicate time.Duration
	// MaxPayload bounds a payload, in bytes. 0 is Config.Limits.Payload, which it
	// may not be above.
	MaxPayload int
	// TTL is the time to live of messages that are published without one (PROTOCOL
	// §4.6). 0 is for ever.
	TTL time.Duration
	// Tick gathers messages for so long before they are delivered together, which
	// saves work where very many come. 0 delivers at once; at most 1 s.
	Tick time.Duration
	// Publish tells who may publish.
	Publish Access
	// Subscribe tells who may subscribe, read the history, and be present. A
	// subscription to a pattern that matches some topic with AccessClosed is denied
	// as a whole (PROTOCOL §3: it is never narrowed), and it needs no token only if
	// all topics that it can match have AccessOpen.
	Subscribe Access
}

// RetainMode tells which messages of a topic are last values (PROTOCOL §4.5).
type RetainMode uint8

// The modes.
const (
	RetainAsked RetainMode = iota // those whose publisher asks for it
	RetainAll                     // every reliable message that is no request
	RetainNone                    // no message: one that asks for it is refused with not_offered
)

// PresenceMode tells what a topic knows of who is present (PROTOCOL §7.8).
type PresenceMode uint8

// The modes.
const (
	PresenceMembers PresenceMode = iota // who, with the state of each
	PresenceCounts                      // how many
	PresenceOff                         // nothing: PRESENCE is refused with not_offered
)

// Access tells which clients may do something.
type Access uint8

// The accesses.
const (
	AccessByToken Access = iota // those whose principal can
	AccessOpen                  // every client
	AccessClosed                // none: only the process of the broker, and other brokers
)

const (
	defaultHistoryCount  = 256
	defaultHistoryAge    = time.Minute
	defaultTopicBytes    = 256 << 10
	defaultHistoryBytes  = 64 << 20
	defaultMaxKeys       = 1024
	defaultMaxMembers    = 1000
	defaultPresenceGrace = 10 * time.Second
	defaultDeduplicate   = 2 * time.Minute
	maxTick              = time.Second
)

// presencePrefix begins the topic of another topic's presence (PROTOCOL §7.8).
const presencePrefix = "$presence."

// topicConfigs are the configurations of a broker's topics, as they are in force:
// every field is set, and what was below 0 is 0 and means none.
type topicConfigs struct {
	// entries has the most specific patterns first, and last one for all others.
	entries []*topicConfig
}

// topicConfig is the configuration of topics, and of the system topics that tell
// who is present in them.
type topicConfig struct {
	TopicConfig
	presence TopicConfig
}

// newTopicConfigs checks configurations and puts them in force. payload is the
// broker's limit.
func newTopicConfigs(list []TopicConfig, payload uint64) (*topicConfigs, error) {
	var errs []error
	c := new(topicConfigs)
	for i := range list {
		if err := list[i].check(payload); err != nil {
			errs = append(errs, fmt.Errorf("broker: topics %q: %w", list[i].Pattern, err))
			continue
		}
		c.entries = append(c.entries, newTopicConfig(list[i], payload))
	}
	slices.SortStableFunc(c.entries, func(a, b *topicConfig) int { return compareSpecific(a.Pattern, b.Pattern) })
	for i, a := range c.entries {
		for _, b := range c.entries[i+1:] {
			if compareSpecific(a.Pattern, b.Pattern) != 0 {
				break
			}
			if codec.Overlap(a.Pattern, b.Pattern) {
				errs = append(errs, fmt.Errorf("broker: topics %q and %q: both match some topics, and neither is more specific; give those a pattern of their own, with more tokens or fewer wildcards", a.Pattern, b.Pattern))
			}
		}
	}
	c.entries = append(c.entries, newTopicConfig(TopicConfig{}, payload))
	return c, errors.Join(errs...)
}

// check returns what is wrong with c.
func (c *TopicConfig) check(payload uint64) error {
	if err := codec.CheckPattern(c.Pattern); err != nil {
		return errors.New(reasonOf(err))
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Class <= codec.ClassUnreliable, "there is no class %d", c.Class)
	check(c.Retain <= RetainNone && c.Presence <= PresenceOff && c.Publish <= AccessClosed && c.Subscribe <= AccessClosed,
		"a mode that does not exist")
	check(c.MaxKeys >= 0, "MaxKeys is negative")
	check(c.MaxMembers >= 0, "MaxMembers is negative")
	check(c.TTL >= 0, "TTL is negative")
	check(c.TTL == 0 || c.TTL >= time.Millisecond, "TTL is below 1 ms")
	check(c.MaxPayload >= 0 && uint64(c.MaxPayload) <= payload, "MaxPayload is negative, or above Config.Limits.Payload, which is %d", payload)
	check(c.Tick >= 0 && c.Tick <= maxTick, "Tick is not between 0 and %v", maxTick)
	return errors.Join(errs...)
}

func newTopicConfig(c TopicConfig, payload uint64) *topicConfig {
	setDefault(&c.History.Count, defaultHistoryCount)
	setDefault(&c.History.Age, defaultHistoryAge)
	setDefault(&c.History.Bytes, defaultTopicBytes)
	setDefault(&c.MaxKeys, defaultMaxKeys)
	setDefault(&c.PresenceGrace, defaultPresenceGrace)
	setDefault(&c.MaxMembers, defaultMaxMembers)
	setDefault(&c.Deduplicate, defaultDeduplicate)
	setDefault(&c.MaxPayload, int(payload))
	c.History.Count = max(0, c.History.Count)
	c.History.Age = max(0, c.History.Age)
	c.History.Bytes = max(0, c.History.Bytes)
	c.PresenceGrace = max(0, c.PresenceGrace)
	c.Deduplicate = max(0, c.Deduplicate)
	if c.Retain == RetainNone {
		c.MaxKeys = 0
	}
	// Its history lets a watcher that comes back learn of joins and leaves.
	p := TopicConfig{
		History: Retention{Count: max(defaultHistoryCount, c.MaxMembers), Age: defaultHistoryAge, Bytes: defaultTopicBytes},
		Retain:  RetainAsked, MaxKeys: c.MaxMembers, Presence: PresenceOff, MaxPayload: int(payload),
		Publish: AccessClosed, Subscribe: c.Subscribe,
	}
	return &topicConfig{c, p}
}

// plain reports whether nothing is configured by pattern.
func (c *topicConfigs) plain() bool { return len(c.entries) == 1 }

// of returns the configuration of a topic; never nil. It must not be changed.
func (c *topicConfigs) of(topic string) *TopicConfig {
	for _, e := range c.entries[:len(c.entries)-1] {
		if codec.Match(e.Pattern, topic) {
			return &e.TopicConfig
		}
	}
	if watched, ok := strings.CutPrefix(topic, presencePrefix); ok {
		for _, e := range c.entries[:len(c.entries)-1] {
			if codec.Match(e.Pattern, watched) {
				return &e.presence
			}
		}
		return &c.entries[len(c.entries)-1].presence
	}
	return &c.entries[len(c.entries)-1].TopicConfig
}

// subscribeAccess tells who may subscribe to a pattern.
func (c *topicConfigs) subscribeAccess(pattern string) Access {
	if codec.IsExact(pattern) {
		return c.of(pattern).Subscribe
	}
	access, covered := AccessOpen, false
	for _, e := range c.entries[:len(c.entries)-1] {
		if !codec.Overlap(e.Pattern, pattern) {
			continue
		}
		switch e.Subscribe {
		case AccessClosed:
			return AccessClosed
		case AccessByToken:
			access = AccessByToken
		}
		// The most specific ones come first: what lies behind one that contains the
		// pattern holds for none of its topics.
		if covered = codec.Contains(e.Pattern, pattern); covered {
			break
		}
	}
	if !covered {
		return AccessByToken
	}
	return access
}

// admit returns why a message may not be published.
func (c *TopicConfig) admit(p codec.Payload, retain bool) error {
	if len(p.Data) > c.MaxPayload {
		return codec.Errorf(codec.CodePayloadTooLarge, "a payload of %d bytes; the limit is %d", len(p.Data), c.MaxPayload)
	}
	if retain && c.Retain == RetainNone {
		return codec.Errorf(codec.CodeNotOffered, "the topic is configured without last values: publish without retain")
	}
	return nil
}

// complete gives a message what the configuration says of it. now is the broker's
// clock. What comes from other brokers was not admitted here.
func (c *TopicConfig) complete(m *Message, now uint64) {
	if m.Expires == 0 && c.TTL > 0 {
		m.Expires = now + uint64(c.TTL/time.Millisecond)
	}
	switch c.Retain {
	case RetainAll:
		// A question is no value, and would take its place until it expires.
		m.Retain = m.Mode == codec.ModeReliable && m.Reply == nil
	case RetainNone:
		m.Retain = false
	}
}

// compareSpecific orders patterns, the more specific first: see TopicConfig.
func compareSpecific(a, b string) int {
	return cmp.Or(
		cmp.Compare(strings.Count(b, "."), strings.Count(a, ".")),
		cmp.Compare(strings.Count(a, "*")+strings.Count(a, ">"), strings.Count(b, "*")+strings.Count(b, ">")),
		cmp.Compare(strings.Count(a, ">"), strings.Count(b, ">")),
	)
}

// String returns the mode as a configuration file has it.
func (m RetainMode) String() string { return nameOf(retainNames, m) }

// UnmarshalText is the reverse of String.
func (m *RetainMode) UnmarshalText(text []byte) error { return byName(m, retainNames, text) }

// String returns the mode as a configuration file has it.
func (m PresenceMode) String() string { return nameOf(presenceNames, m) }

// UnmarshalText is the reverse of String.
func (m *PresenceMode) UnmarshalText(text []byte) error { return byName(m, presenceNames, text) }

// String returns the access as a configuration file has it.
func (a Access) String() string { return nameOf(accessNames, a) }

// UnmarshalText is the reverse of String.
func (a *Access) UnmarshalText(text []byte) error { return byName(a, accessNames, text) }

var (
	retainNames   = []string{"asked", "all", "none"}
	presenceNames = []string{"members", "counts", "off"}
	accessNames   = []string{"token", "open", "closed"}
)

func nameOf[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%d", v)
}

func byName[T ~uint8](v *T, names []string, text []byte) error {
	i := slices.Index(names, string(text))
	if i < 0 {
		return fmt.Errorf("%q is none of %s", text, strings.Join(names, ", "))
	}
	*v = T(i)
	return nil
}
