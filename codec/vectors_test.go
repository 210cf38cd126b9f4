package codec

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// update writes the frame vectors anew from the table in this file. What it
// changes is a change of the protocol: read the diff.
var update = flag.Bool("update", false, "write testdata/vectors/frames.json")

// frameVector is one frame in every language: its fields and its bytes.
type frameVector struct {
	Name  string         `json:"name"`
	Type  string         `json:"type"`
	Value map[string]any `json:"value"`
	Hex   string         `json:"hex"`
}

// frameCodec joins the two directions of one frame type.
type frameCodec struct {
	parse func(Frame) (any, error)
	write func([]byte, any) []byte
}

func codecOf[T any](parse func(Frame) (T, error), write func([]byte, T) []byte) frameCodec {
	return frameCodec{
		parse: func(f Frame) (any, error) { return parse(f) },
		write: func(b []byte, v any) []byte { return write(b, v.(T)) },
	}
}

var frameCodecs = map[Type]frameCodec{
	TypeHello:         codecOf(ParseHello, AppendHello),
	TypeWelcome:       codecOf(ParseWelcome, AppendWelcome),
	TypeAuth:          codecOf(ParseAuth, AppendAuth),
	TypeAuthenticated: codecOf(ParseAuthenticated, AppendAuthenticated),
	TypeNotice:        codecOf(ParseNotice, AppendNotice),
	TypeEnd:           codecOf(ParseEnd, AppendEnd),
	TypeFlow:          codecOf(ParseFlow, AppendFlow),
	TypeStreamEnd:     codecOf(ParseStreamEnd, AppendStreamEnd),
	TypeSubscribe:     codecOf(ParseSubscribe, AppendSubscribe),
	TypeSubscribed:    codecOf(ParseSubscribed, AppendSubscribed),
	TypeTopic:         codecOf(ParseTopic, AppendTopic),
	TypeMessage:       codecOf(ParseMessage, AppendMessage),
	TypeGap:           codecOf(ParseGap, AppendGap),
	TypeSkip:          codecOf(ParseSkip, AppendSkip),
	TypePublication:   codecOf(ParsePublication, AppendPublication),
	TypePublish:       codecOf(ParsePublish, AppendPublish),
	TypeAck:           codecOf(ParseAck, AppendAck),
	TypeNack:          codecOf(ParseNack, AppendNack),
	TypePriority:      codecOf(ParsePriority, AppendPriority),
	TypePing:          codecOf(ParsePing, AppendPing),
	TypePong:          codecOf(ParsePong, AppendPong),
	TypeFetch:         codecOf(ParseFetch, AppendFetch),
	TypePage:          codecOf(ParsePage, AppendPage),
	TypePresence:      codecOf(ParsePresence, AppendPresence),
	TypeCount:         codecOf(ParseCount, AppendCount),
	TypeCounts:        codecOf(ParseCounts, AppendCounts),
	TypeRequest:       codecOf(ParseRequest, AppendRequest),
	TypeResponse:      codecOf(ParseResponse, AppendResponse),
	TypeDone:          codecOf(ParseDone, AppendDone),
	TypeReply:         codecOf(ParseReply, AppendReply),
	TypeCancel:        codecOf(ParseCancel, AppendCancel),
}

var (
	idA = ID{0x01, 0x9a, 0x3c, 0x55, 0x7e, 0x10, 0x7b, 0x21, 0x8c, 0x44, 0xde, 0xad, 0xbe, 0xef, 0x00, 0x01}
)

// frames is the table from which the vectors are written.
var frames = []struct {
	name  string
	typ   Type
	value any
}{
	{"hello with nothing optional", TypeHello, Hello{Version: 1}},
	{"hello with everything", TypeHello, Hello{Version: 1, Capabilities: CapDatagrams, Token: "a.b.c", Resume: Resume{Client: idA, Secret: []byte{9, 8, 7}}, Agent: "tidewire-js/1.0"}},
	{"hello of a later version", TypeHello, Hello{Version: 300, Capabilities: 1 << 40}},
	{"welcome", TypeWelcome, Welcome{Version: 1, Capabilities: CapDatagrams, Client: idA, Secret: []byte("secret"), Limits: DefaultLimits(), Base: 1_790_000_000_000, Expires: Some(3_600_000), Server: "tidewire"}},
	{"welcome without expiry", TypeWelcome, Welcome{Version: 1, Client: idA, Secret: []byte{}, Limits: Limits{Payload: 1, Subscriptions: 2, Publications: 3, PublicationCredit: 4, SubscriptionCredit: 5}, Base: 0}},
	{"auth", TypeAuth, Auth{Number: 3, Token: strings.Repeat("t", 40)}},
	{"authenticated", TypeAuthenticated, Authenticated{Number: 3, Expires: Some(70_000)}},
	{"authenticated for ever", TypeAuthenticated, Authenticated{Number: 200}},
	{"notice", TypeNotice, Notice{Code: CodeTokenExpired, Reason: "send AUTH", Deadline: Some(25_000)}},
	{"end without error", TypeEnd, End{Code: CodeOK}},
	{"end with retry and position", TypeEnd, End{Code: CodeShuttingDown, Reason: "the broker stops", Retry: Some(0), Epoch: Some(1<<48 - 1), Offset: Some(70_000)}},
	{"flow", TypeFlow, Flow{Subscription: 2, Limit: 262_144, Offset: Some(17)}},
	{"flow of a pattern", TypeFlow, Flow{Subscription: 128, Limit: 1 << 33}},
	{"stream end", TypeStreamEnd, StreamEnd{Subscription: 2, Code: CodeSlowSubscriber, Reason: "not read", Retry: Some(1000)}},
	{"subscribe", TypeSubscribe, Subscribe{Number: 1, Pattern: "chat.room-1", Class: ClassReliable, Priority: 3, Credit: 262_144}},
	{"subscribe to a pattern", TypeSubscribe, Subscribe{Number: 255, Pattern: "chat.*.cursors.>", Class: ClassSequenced, Priority: 7, Credit: 1}},
	{"subscribed to a topic", TypeSubscribed, Subscribed{Topic: 12, Epoch: 81_985_529_216_486, Offset: 0}},
	{"subscribed to a pattern", TypeSubscribed, Subscribed{}},
	{"topic", TypeTopic, Topic{Topic: 12, Name: "grüße.日本", Epoch: 1, Offset: 41}},
	{"message of text", TypeMessage, Message{Topic: 12, Offset: 42, Previous: 1, Time: 1500, Payload: Text("hello")}},
	{"message with publisher", TypeMessage, Message{Topic: 12, Offset: 43, Previous: 1, Time: 4_294_967_296, Payload: Payload{EncodingJSON, []byte(`{"a":1}`)}, Publisher: idA}},
	{"lossy message", TypeMessage, Message{Topic: 12, Offset: 44, Previous: 1, Time: 1501, Payload: Bytes([]byte{0, 255}), Publisher: idA, Reliable: Some(1)}},
	{"lossy message without a publisher, before any reliable one", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 7, Time: 0, Payload: Payload{EncodingMsgpack, []byte{0xc0}}, Reliable: Some(0)}},
	{"message with an empty payload", TypeMessage, Message{Topic: 1, Offset: 1, Previous: 1, Payload: Bytes([]byte{})}},
	{"message of an encoding to come", TypeMessage, Message{Topic: 1, Offset: 1, Previous: 1, Payload: Payload{Encoding: 200, Data: []byte{1}}}},
	{"message of 300 bytes", TypeMessage, Message{Topic: 65_536, Offset: 1 << 40, Previous: 256, Time: 65_535, Payload: Bytes(bytes.Repeat([]byte{0xab}, 300))}},
	{"message of 17000 bytes", TypeMessage, Message{Topic: 2, Offset: 2, Previous: 1, Time: 1, Payload: Bytes(bytes.Repeat([]byte{0xcd}, 17_000))}},
	{"gap", TypeGap, Gap{Topic: 12, Epoch: Some(5), From: Some(10), To: Some(20), Reason: GapOverflow, Count: Some(10)}},
	{"gap of unknown extent", TypeGap, Gap{Reason: GapBus}},
	{"skip", TypeSkip, Skip{Topic: 12, To: 99}},
	{"publication", TypePublication, Publication{Topic: "chat.room-1", Publisher: idA, First: 1}},
	{"publication before welcome", TypePublication, Publication{Topic: "a", First: 1000}},
	{"publish on a publication", TypePublish, Publish{Sequence: 1, Payload: Text("hi")}},
	{"publish on the control stream", TypePublish, Publish{Sequence: 9, Topic: "a.b", Mode: ModeReliable, Payload: Bytes([]byte{1, 2, 3})}},
	{"publish in a datagram", TypePublish, Publish{Topic: "a.b", Mode: ModeLossy, Payload: Bytes([]byte{1, 2, 3})}},
	{"ack of three", TypeAck, Ack{Sequence: 5, Epoch: 77, Offsets: []uint64{100, 101, 300}, Limit: Some(300_000)}},
	{"ack on the control stream", TypeAck, Ack{Sequence: 9, Epoch: 77, Offsets: []uint64{1}}},
	{"ack that only gives credit", TypeAck, Ack{Limit: Some(1 << 20)}},
	{"nack", TypeNack, Nack{Sequence: 6, Code: CodePayloadTooLarge, Reason: "too large", Limit: Some(400_000)}},
	{"subscribe from a position, in class latest", TypeSubscribe, Subscribe{Number: 1, Pattern: "a.b", Class: ClassLatest, Credit: 9, From: From{Kind: FromPosition, Epoch: 1<<48 - 1, Offset: 70_000}}},
	{"subscribe from the last ten", TypeSubscribe, Subscribe{Number: 1, Pattern: "a.>", Credit: 9, From: From{Kind: FromLast, N: 10}}},
	{"subscribe from a time, without echo", TypeSubscribe, Subscribe{Number: 1, Pattern: "a", Credit: 9, From: From{Kind: FromTime, Time: 12_345}, NoEcho: true}},
	{"subscribe from the beginning, without last values", TypeSubscribe, Subscribe{Number: 1, Pattern: "a", Credit: 9, From: From{Kind: FromBeginning}, NoRetained: true}},
	{"subscribe from positions", TypeSubscribe, Subscribe{Number: 1, Pattern: "a.*", Credit: 9, From: From{Kind: FromPositions, Time: 5, Positions: []TopicPosition{{"a.b", 7, 8, 0}, {"a.c", 9, 0, 0}}}}},
	{"subscribe from a position, with last values alone up to another", TypeSubscribe, Subscribe{Number: 1, Pattern: "a", Credit: 9, From: From{Kind: FromPosition, Epoch: 7, Offset: 8, Values: 70_000}}},
	{"subscribe from positions, one of them within the last values", TypeSubscribe, Subscribe{Number: 1, Pattern: "a.*", Credit: 9, From: From{Kind: FromPositions, Time: 5, Positions: []TopicPosition{{"a.b", 7, 8, 9}, {"a.c", 9, 0, 0}}}}},
	{"subscribe from no positions", TypeSubscribe, Subscribe{Number: 1, Pattern: "a.*", Credit: 9, From: From{Kind: FromPositions, Time: 5}}},
	{"subscribe to presence", TypeSubscribe, Subscribe{Number: 1, Pattern: "room.*", Class: ClassLatest, Credit: 9, Presence: true}},
	{"subscribe with a filter", TypeSubscribe, Subscribe{Number: 1, Pattern: "a", Credit: 9, Filter: Filter{{"kind", OpIs, []string{"x", "y"}}, {"level", OpAtLeast, []string{"-3.5"}}, {"debug", OpAbsent, nil}}}},
	{"subscribe in a group", TypeSubscribe, Subscribe{Number: 1, Pattern: "jobs.>", Credit: 9, Group: "workers"}},
	{"subscribed to what is replayed", TypeSubscribed, Subscribed{Topic: 12, Epoch: 5, Offset: 10, Last: Some(20), Time: Some(99)}},
	{"subscribed in a weaker class", TypeSubscribed, Subscribed{Topic: 12, Epoch: 5, Offset: 10, Class: Some(1)}},
	{"subscribed to a pattern at a time", TypeSubscribed, Subscribed{Time: Some(99)}},
	{"subscribed to a pattern with older messages", TypeSubscribed, Subscribed{Time: Some(99), Topics: Some(300)}},
	{"topic with replay and class", TypeTopic, Topic{Topic: 12, Name: "a.b", Epoch: 5, Offset: 0, Last: Some(20), Class: Some(2)}},
	{"topic with replay", TypeTopic, Topic{Topic: 12, Name: "a.b", Epoch: 5, Offset: 1, Last: Some(20)}},
	{"message with a key", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 1, Time: 3, Payload: Text("v"), Publisher: idA, Key: "sensor-7"}},
	{"message that expires", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 1, Time: 3, Payload: Text("v"), Expires: Some(60_003)}},
	{"message with headers", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 1, Time: 3, Payload: Text("v"), Headers: Headers{{"kind", "x"}, {"empty", ""}}}},
	{"message that is a request", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 1, Time: 3, Payload: Text("v"), Expires: Some(9), Reply: []byte{1, 2, 3}}},
	{"message with everything", TypeMessage, Message{Topic: 12, Offset: 7, Previous: 1, Time: 3, Payload: Text("v"), Publisher: idA, Key: "k", Expires: Some(9), Headers: Headers{{"a", "b"}}, Reply: []byte{1}, Retain: true}},
	{"gap by priority", TypeGap, Gap{Topic: 12, Epoch: Some(5), From: Some(10), To: Some(20), Reason: GapPriority, Count: Some(4)}},
	{"publish with a key", TypePublish, Publish{Sequence: 1, Payload: Text("v"), Key: "k"}},
	{"publish that expires", TypePublish, Publish{Sequence: 1, Payload: Text("v"), TTL: Some(1)}},
	{"publish with headers", TypePublish, Publish{Sequence: 1, Payload: Text("v"), Headers: Headers{{"a", "b"}}}},
	{"publish of a last value", TypePublish, Publish{Sequence: 1, Payload: Text("v"), Key: "k", Retain: true}},
	{"publish with an idempotency key", TypePublish, Publish{Sequence: 1, Payload: Text("v"), ID: "order-17"}},
	{"publish in order on the control stream", TypePublish, Publish{Sequence: 4, Topic: "a", Payload: Text("v"), Order: Some(17)}},
	{"publish again", TypePublish, Publish{Sequence: 8, Payload: Text("v"), Age: Some(1500)}},
	{"publish again on the control stream", TypePublish, Publish{Sequence: 5, Topic: "a", Payload: Text("v"), ID: "order-17", Order: Some(17), Age: Some(0)}},
	{"priority", TypePriority, Priority{Subscription: 3, Priority: 7}},
	{"ping", TypePing, Ping{Number: 1}},
	{"ping about the subscriptions", TypePing, Ping{Number: 2, Subscriptions: true}},
	{"pong", TypePong, Pong{Number: 1}},
	{"pong with everything", TypePong, Pong{Number: 2, RTT: Some(31_000), Sent: Some(400), Lost: Some(3), Subscriptions: []SubscriptionHealth{{1, 2, 3, 4, 5}, {6, 0, 0, 0, 0}}}},
	{"fetch the newest", TypeFetch, Fetch{Topic: "a", Backward: true, Limit: 50}},
	{"fetch from a position", TypeFetch, Fetch{Topic: "a", From: From{Kind: FromPosition, Epoch: 1, Offset: 2}, Limit: 1000}},
	{"page", TypePage, Page{Topic: 12, Epoch: 5, First: 3, Last: 90}},
	{"page of nothing", TypePage, Page{Topic: 12, Epoch: 5}},
	{"presence", TypePresence, Presence{Number: 1, Topic: "room", State: Text("here")}},
	{"presence that ends", TypePresence, Presence{Number: 2, Topic: "room", Leave: true}},
	{"count", TypeCount, Count{Number: 3, Pattern: "room.*"}},
	{"counts", TypeCounts, Counts{Number: 3, Topics: []TopicCount{{"room.a", 2}, {"room.b", 300}}, More: true}},
	{"counts of nothing", TypeCounts, Counts{Number: 3}},
	{"request", TypeRequest, Request{Number: 1, Topic: "svc.add", Timeout: 5000, Limit: 1, Payload: Text("1+1")}},
	{"request with everything", TypeRequest, Request{Number: 1, Topic: "svc", Timeout: 1, Limit: 65_535, Payload: Text("q"), Key: "k", Headers: Headers{{"a", "b"}}}},
	{"response", TypeResponse, Response{Number: 1, Payload: Text("2"), Publisher: idA}},
	{"response of no client", TypeResponse, Response{Number: 1, Payload: Text("2"), Headers: Headers{{"a", "b"}}}},
	{"done", TypeDone, Done{Number: 1}},
	{"done without responders", TypeDone, Done{Number: 1, Code: CodeNoResponders, Reason: "nobody is subscribed"}},
	{"reply", TypeReply, Reply{To: []byte{1, 2, 3}, Payload: Text("2")}},
	{"reply with headers", TypeReply, Reply{To: []byte{1}, Payload: Text("2"), Headers: Headers{{"a", "b"}}}},
	{"cancel", TypeCancel, Cancel{Number: 1}},
	{"nack to try again", TypeNack, Nack{Sequence: 7, Code: CodeBusUnavailable, Retry: Some(500)}},
}

// fields turns a frame into what the vectors hold: names in lower camel case,
// bytes in hex, ids as UUIDs, optional integers as themselves or null.
func fields(v any) map[string]any {
	m := make(map[string]any)
	rv := reflect.ValueOf(v)
	for i := range rv.NumField() {
		name := []rune(rv.Type().Field(i).Name)
		name[0] = unicode.ToLower(name[0])
		m[string(name)] = field(rv.Field(i).Interface())
	}
	return m
}

func field(v any) any {
	switch v := v.(type) {
	case Optional:
		if !v.Set {
			return nil
		}
		return float64(v.Value)
	case ID:
		if v.IsZero() {
			return nil
		}
		return v.String()
	case []byte:
		return hex.EncodeToString(v)
	case string, bool:
		return v
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.Struct:
		return fields(v)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return float64(rv.Uint())
	case reflect.Slice:
		list := make([]any, rv.Len())
		for i := range list {
			list[i] = field(rv.Index(i).Interface())
		}
		return list
	default:
		panic("no vector form for " + rv.Type().String())
	}
}

func readVectors[T any](t testing.TB, name string) []T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var v []T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(v) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUpdateVectors(t *testing.T) {
	var vectors []frameVector
	for _, f := range frames {
		b := frameCodecs[f.typ].write(nil, f.value)
		vectors = append(vectors, frameVector{f.name, f.typ.String(), fields(f.value), hex.EncodeToString(b)})
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(vectors); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "vectors", "frames.json")
	if *update {
		if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, buf.Bytes()) {
		t.Errorf("%s is not what the table gives: run go test ./codec -run TestUpdateVectors -update, and read the diff as a change of the protocol", path)
	}
}

func TestFrameVectors(t *testing.T) {
	seen := make(map[Type]bool)
	for _, v := range readVectors[frameVector](t, "frames.json") {
		t.Run(v.Name, func(t *testing.T) {
			b := unhex(t, v.Hex)
			f, n, err := NextFrame(b, DefaultMaxFrame)
			if err != nil || n != len(b) {
				t.Fatalf("NextFrame = %d, %v; want %d bytes", n, err, len(b))
			}
			if f.Type.String() != v.Type {
				t.Fatalf("type %s, want %s", f.Type, v.Type)
			}
			seen[f.Type] = true
			c := frameCodecs[f.Type]
			got, err := c.parse(f)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(fields(got), v.Value) {
				t.Errorf("parsed %v\nwant   %v", fields(got), v.Value)
			}
			if again := c.write([]byte("front"), got); string(again) != "front"+string(b) {
				t.Errorf("written again: %x\nwant           %x", again[5:], b)
			}
			// Cut anywhere, a frame is incomplete and nothing else.
			for i := range min(len(b), 400) {
				if _, _, err := NextFrame(b[:i], DefaultMaxFrame); !errors.Is(err, ErrShort) {
					t.Fatalf("cut at %d: %v, want ErrShort", i, err)
				}
			}
		})
	}
	for typ := range frameCodecs {
		if !seen[typ] {
			t.Errorf("no vector for %s", typ)
		}
	}
}

func TestRejectedVectors(t *testing.T) {
	type rejected struct {
		Name string `json:"name"`
		Type string `json:"type"` // the frame that the receiver expects
		Hex  string `json:"hex"`
		Code string `json:"code"`
	}
	byName := make(map[string]frameCodec)
	for typ, c := range frameCodecs {
		byName[typ.String()] = c
	}
	for _, v := range readVectors[rejected](t, "rejected.json") {
		t.Run(v.Name, func(t *testing.T) {
			c, ok := byName[v.Type]
			if !ok {
				t.Fatalf("no frame type %q", v.Type)
			}
			f, _, err := NextFrame(unhex(t, v.Hex), MaxFirstFrame)
			if err == nil {
				_, err = c.parse(f)
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code.String() != v.Code {
				t.Errorf("got %v, want %s", err, v.Code)
			}
		})
	}
}

func TestTopicVectors(t *testing.T) {
	type name struct {
		Name    string `json:"name"`
		Topic   bool   `json:"topic"`
		Pattern bool   `json:"pattern"`
		System  bool   `json:"system"`
	}
	for _, v := range readVectors[name](t, "topics.json") {
		if err := CheckTopic(v.Name); (err == nil) != v.Topic || err != nil && CodeOf(err) != CodeInvalidTopic {
			t.Errorf("CheckTopic(%q) = %v, want valid = %v", v.Name, err, v.Topic)
		}
		if err := CheckPattern(v.Name); (err == nil) != v.Pattern || err != nil && CodeOf(err) != CodeInvalidPattern {
			t.Errorf("CheckPattern(%q) = %v, want valid = %v", v.Name, err, v.Pattern)
		}
		if v.Pattern && IsSystem(v.Name) != v.System {
			t.Errorf("IsSystem(%q) = %v", v.Name, !v.System)
		}
		if v.Pattern && IsExact(v.Name) != v.Topic {
			t.Errorf("IsExact(%q) = %v", v.Name, !v.Topic)
		}
	}
}

func TestMatchVectors(t *testing.T) {
	type match struct {
		Pattern string `json:"pattern"`
		Topic   string `json:"topic"`
		Match   bool   `json:"match"`
	}
	for _, v := range readVectors[match](t, "matches.json") {
		if got := Match(v.Pattern, v.Topic); got != v.Match {
			t.Errorf("Match(%q, %q) = %v", v.Pattern, v.Topic, got)
		}
	}
}

func TestContainsVectors(t *testing.T) {
	type contains struct {
		Outer    string `json:"outer"`
		Inner    string `json:"inner"`
		Contains bool   `json:"contains"`
	}
	for _, v := range readVectors[contains](t, "contains.json") {
		if got := Contains(v.Outer, v.Inner); got != v.Contains {
			t.Errorf("Contains(%q, %q) = %v", v.Outer, v.Inner, got)
		}
	}
}
