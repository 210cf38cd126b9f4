package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// environments are where scenarios run. Browsers are those of web/js/e2e/contract.
var environments = []string{"local", "nats", "chromium", "firefox"}

// scenario is one entry of a file in testdata/scenarios.
type scenario struct {
	Name string `json:"name"`
	// Points are those of the list of capabilities in testdata/README.md.
	Points []int `json:"points"`
	// Together says why all clients must be on one broker; testdata/together.json
	// names for each reason the scenario that says what holds across brokers.
	Together string `json:"together"`
	// Not says why an environment does not have what the scenario shows, and Instead
	// names the one that asserts what it has.
	Not     map[string]string `json:"not"`
	Instead string            `json:"instead"`
	// Only names the environments that it is about, each with the reason.
	Only map[string]string `json:"only"`
	// Steps are objects with one member: the step's name, and its fields.
	Steps []step `json:"steps"`
}

// absent reports whether a scenario is not for an environment, and why.
func (s scenario) absent(env string) (why string, absent bool) {
	if why, not := s.Not[env]; not {
		return why, true
	}
	if _, only := s.Only[env]; len(s.Only) > 0 && !only {
		for other, why := range s.Only {
			return "only in " + other + ": " + why, true
		}
	}
	return "", false
}

// step is one step: its name and its fields, two of which every step has.
type step struct {
	name   string
	fields json.RawMessage
	Error  string `json:"error"` // the code with which it must fail
	Async  string `json:"async"` // it goes on beside the next ones, until "join" names it
}

func (s *step) UnmarshalJSON(b []byte) error {
	var named map[string]map[string]json.RawMessage
	if err := json.Unmarshal(b, &named); err != nil {
		return err
	}
	if len(named) != 1 {
		return fmt.Errorf("a step has one name: %s", b)
	}
	for name, fields := range named {
		s.name = name
		for key, to := range map[string]*string{"error": &s.Error, "async": &s.Async} {
			if v, ok := fields[key]; ok {
				delete(fields, key)
				if err := json.Unmarshal(v, to); err != nil {
					return err
				}
			}
		}
		var err error
		if s.fields, err = json.Marshal(fields); err != nil {
			return err
		}
	}
	return nil
}

// loadScenarios reads all scenarios. In what they say, unique takes the place of ~,
// so that each run has topics of its own.
func loadScenarios(t *testing.T, unique string) []scenario {
	t.Helper()
	files, err := filepath.Glob("testdata/scenarios/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	var all []scenario
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var list []json.RawMessage
		if err := Decode(b, &list); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for i, raw := range list {
			var s scenario
			raw = bytes.ReplaceAll(raw, []byte("~"), fmt.Appendf(nil, "%s%d", unique, len(all)))
			if err := Decode(raw, &s); err != nil {
				t.Fatalf("%s: scenario %d: %v", file, i+1, err)
			}
			s.Name = strings.TrimSuffix(filepath.Base(file), ".json") + ": " + s.Name
			all = append(all, s)
		}
	}
	return all
}

// acrossBrokers names, for each reason to have all clients on one broker, the scenario
// that says what holds across brokers.
func acrossBrokers(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("testdata/together.json")
	if err != nil {
		t.Fatal(err)
	}
	var across map[string]string
	if err := json.Unmarshal(b, &across); err != nil {
		t.Fatal(err)
	}
	return across
}

// points is how many capabilities there are, each of which two scenarios show.
const points = 16

func TestScenariosAreComplete(t *testing.T) {
	shown := make(map[int]int)
	names := make(map[string]scenario)
	all := loadScenarios(t, "x")
	for _, s := range all {
		if _, ok := names[s.Name]; ok {
			t.Errorf("two scenarios are called %q", s.Name)
		}
		names[s.Name] = s
		if len(s.Points) == 0 {
			t.Errorf("%q shows none of the capabilities", s.Name)
		}
		for _, p := range s.Points {
			shown[p]++
		}
		for _, step := range s.Steps {
			if _, ok := clientSteps[step.name]; !ok && worldSteps[step.name] == nil {
				t.Errorf("%q: there is no step %q", s.Name, step.name)
			}
		}
	}
	for p := 1; p <= points; p++ {
		if shown[p] < 2 {
			t.Errorf("capability %d is shown by %d scenarios", p, shown[p])
		}
		delete(shown, p)
	}
	for p := range shown {
		t.Errorf("there is no capability %d", p)
	}
	across := acrossBrokers(t)
	for _, s := range all {
		if s.Together == "" {
			continue
		}
		other, ok := names[across[s.Together]]
		if _, absent := other.absent("nats"); !ok || absent || other.Together != "" {
			t.Errorf("%q has its clients together because %q, and no scenario over NATS says what holds across brokers", s.Name, s.Together)
		}
	}
	for _, s := range all {
		for env, why := range s.Only {
			if !slices.Contains(environments, env) || why == "" {
				t.Errorf("%q is only in %q: %q", s.Name, env, why)
			}
		}
		for env, why := range s.Not {
			other, ok := names[s.Instead]
			switch {
			case !slices.Contains(environments, env):
				t.Errorf("%q: there is no environment %q", s.Name, env)
			case why == "":
				t.Errorf("%q does not say why it does not run in %s", s.Name, env)
			case !ok:
				t.Errorf("%q does not run in %s, and no scenario says what holds there", s.Name, env)
			case other.Not[env] != "":
				t.Errorf("%q is to be shown by %q in %s, which does not run there", s.Name, s.Instead, env)
			}
		}
	}
}
