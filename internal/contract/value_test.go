package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/tidewire/tidewire/codec"
)

// expand makes the value that data stand for, the n-th of several: "#" is n, {"$text":
// k} a text of k bytes, {"$bytes": [...]} bytes.
func expand(v any, n int) any {
	switch v := v.(type) {
	case string:
		if v == "#" {
			return float64(n)
		}
		return strings.ReplaceAll(v, "#", fmt.Sprint(n))
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = expand(v[i], n)
		}
		return list
	case map[string]any:
		if size, ok := v["$text"].(float64); ok {
			return strings.Repeat("x", int(size))
		}
		if list, ok := v["$bytes"].([]any); ok {
			b := make([]byte, len(list))
			for i := range list {
				b[i] = byte(list[i].(float64))
			}
			return b
		}
		object := make(map[string]any, len(v))
		for key := range v {
			object[key] = expand(v[key], n)
		}
		return object
	}
	return v
}

// plain makes a value comparable with one of expand: as if it had been JSON, but for
// bytes.
func plain(v any) any {
	if b, ok := v.([]byte); ok {
		return b
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("no JSON: %v", err)
	}
	var p any
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Sprintf("no JSON: %v", err)
	}
	return p
}

// decoded is the value of a payload.
func decoded(p codec.Payload) (any, error) {
	var v any
	if err := p.Decode(&v); err != nil {
		return nil, err
	}
	return plain(v), nil
}

func equal(got, want any) bool {
	if b, ok := want.([]byte); ok {
		g, ok := got.([]byte)
		return ok && bytes.Equal(g, b)
	}
	return reflect.DeepEqual(got, want)
}

// show is a value for people.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	if len(b) > 300 {
		return string(b[:300]) + "…"
	}
	return string(b)
}
