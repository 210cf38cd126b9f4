package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/codec"
)

func configsOf(t *testing.T, list ...TopicConfig) *topicConfigs {
	t.Helper()
	c, err := newTopicConfigs(list, codec.DefaultMaxPayload)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMostSpecificPatternHolds(t *testing.T) {
	var list []TopicConfig
	for _, p := range []string{">", "a.>", "*.b", "a.b", "a.*", "a.*.c", "a.b.>", "a.b.c", "*.*.*.*", "$x.>", "$presence.special"} {
		list = append(list, TopicConfig{Pattern: p, TTL: time.Second})
	}
	c := configsOf(t, append(list[:4:4], list[5:]...)...) // a.* would tie with *.b
	for topic, want := range map[string]string{
		"a":       ">",
		"z.z.z":   ">",
		"a.z":     "a.>",
		"a.b":     "a.b",
		"z.b":     "*.b",
		"a.z.c":   "a.*.c",
		"a.b.d":   "a.b.>",
		"a.b.c":   "a.b.c",
		"a.b.c.d": "*.*.*.*", // more tokens
		"a.z.z":   "a.>",
		"$x.a":    "$x.>",
		"$y.a":    "", // no wildcard matches the system's

		"$presence.special": "$presence.special",
	} {
		if got := c.of(topic).Pattern; got != want {
			t.Errorf("%s: %q holds, want %q", topic, got, want)
		}
	}
}

// What is not said has its default, whatever a less specific pattern says.
func TestDefaults(t *testing.T) {
	c := configsOf(t,
		TopicConfig{Pattern: ">", Class: codec.ClassLatest, TTL: time.Second, History: Retention{Count: -1}, Retain: RetainNone},
		TopicConfig{Pattern: "a", History: Retention{Count: 1000, Age: -1, Bytes: -1}, PresenceGrace: -1, Deduplicate: -1},
	)
	plain := TopicConfig{
		History: Retention{Count: 256, Age: time.Minute, Bytes: 256 << 10}, MaxKeys: 1024, PresenceGrace: 10 * time.Second,
		MaxMembers: 1000, Deduplicate: 2 * time.Minute, MaxPayload: codec.DefaultMaxPayload,
	}
	if got := *configsOf(t).of("x"); got != plain {
		t.Errorf("without configuration: %+v, want %+v", got, plain)
	}
	want := plain
	want.Pattern, want.History, want.PresenceGrace, want.Deduplicate = "a", Retention{Count: 1000}, 0, 0
	if got := *c.of("a"); got != want {
		t.Errorf("a: %+v, want %+v", got, want)
	}
	want = plain
	want.Pattern, want.Class, want.TTL, want.History.Count, want.Retain, want.MaxKeys = ">", codec.ClassLatest, time.Second, 0, RetainNone, 0
	if got := *c.of("b"); got != want {
		t.Errorf("b: %+v, want %+v", got, want)
	}
}

func TestPresenceTopicsFollowTheirTopic(t *testing.T) {
	c := configsOf(t, TopicConfig{Pattern: "room.*", MaxMembers: 7, Subscribe: AccessOpen, Class: codec.ClassLatest, TTL: time.Second})
	p := c.of("$presence.room.a")
	if p.MaxKeys != 7 || p.Subscribe != AccessOpen || p.Publish != AccessClosed || p.Presence != PresenceOff || p.Class != codec.ClassReliable || p.TTL != 0 {
		t.Errorf("$presence.room.a: %+v", p)
	}
	if p := c.of("$presence.other"); p.MaxKeys != 1000 || p.Subscribe != AccessByToken || p.History.Count < 1000 {
		t.Errorf("$presence.other: %+v", p)
	}
}

func TestBadTopicConfigs(t *testing.T) {
	for want, list := range map[string][]TopicConfig{
		`topics "": `:                       {{}},
		`topics "a..b": `:                   {{Pattern: "a..b"}},
		"no class 9":                        {{Pattern: "a", Class: 9}},
		"mode":                              {{Pattern: "a", Retain: 9}},
		"MaxKeys":                           {{Pattern: "a", MaxKeys: -1}},
		"MaxMembers":                        {{Pattern: "a", MaxMembers: -1}},
		"TTL is negative":                   {{Pattern: "a", TTL: -1}},
		"below 1 ms":                        {{Pattern: "a", TTL: 1}},
		"MaxPayload":                        {{Pattern: "a", MaxPayload: codec.DefaultMaxPayload + 1}},
		"Tick":                              {{Pattern: "a", Tick: 2 * time.Second}},
		`"a.*" and "*.b": both match`:       {{Pattern: "a.*"}, {Pattern: "x"}, {Pattern: "*.b"}},
		`"x" and "x": both match`:           {{Pattern: "x"}, {Pattern: "x"}},
		`"a.*.>" and "*.b.>": both match`:   {{Pattern: "a.*.>"}, {Pattern: "*.b.>"}},
		`topics "second": Tick is not betw`: {{Pattern: "first"}, {Pattern: "second", Tick: -1}},
	} {
		_, err := New(Config{Topics: list})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", list, err, want)
		}
	}
	// Neither is more specific, but no topic is matched by both.
	configsOf(t, TopicConfig{Pattern: "a.*"}, TopicConfig{Pattern: "b.*"}, TopicConfig{Pattern: "*.b.c"}, TopicConfig{Pattern: "*.c.c"}, TopicConfig{Pattern: "$s.>"}, TopicConfig{Pattern: "*.>"})
}

func TestSubscribeAccess(t *testing.T) {
	c := configsOf(t,
		TopicConfig{Pattern: "public.>", Subscribe: AccessOpen},
		TopicConfig{Pattern: "public.members.>", Subscribe: AccessByToken},
		TopicConfig{Pattern: "secret.>", Subscribe: AccessClosed},
		TopicConfig{Pattern: "secret.but.not.this", Subscribe: AccessOpen},
		TopicConfig{Pattern: "mixed.*", Subscribe: AccessOpen},
		TopicConfig{Pattern: "mixed.closed", Subscribe: AccessClosed},
	)
	for pattern, want := range map[string]Access{
		"public.a":            AccessOpen,
		"public.*":            AccessOpen,
		"public.*.*":          AccessByToken, // some of it is
		"public.>":            AccessByToken,
		"public.members.a":    AccessByToken,
		"public":              AccessByToken, // no pattern matches it
		"other.*":             AccessByToken,
		"secret.a":            AccessClosed,
		"secret.>":            AccessClosed,
		">":                   AccessClosed,
		"*.a":                 AccessClosed,
		"secret.but.not.this": AccessOpen,
		"mixed.a":             AccessOpen,
		"mixed.*":             AccessClosed,
		"mixed.>":             AccessClosed,
		"*":                   AccessByToken,
	} {
		if got := c.subscribeAccess(pattern); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
}

func TestModesAsText(t *testing.T) {
	var r RetainMode
	var p PresenceMode
	var a Access
	if r.UnmarshalText([]byte("all")) != nil || r != RetainAll || r.String() != "all" ||
		p.UnmarshalText([]byte("counts")) != nil || p != PresenceCounts || p.String() != "counts" ||
		a.UnmarshalText([]byte("closed")) != nil || a != AccessClosed || a.String() != "closed" || Access(9).String() != "9" {
		t.Errorf("%v %v %v", r, p, a)
	}
	if err := a.UnmarshalText([]byte("shut")); err == nil || !strings.Contains(err.Error(), `"shut" is none of token, open, closed`) {
		t.Errorf("an access that does not exist: %v", err)
	}
}
