package contract

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The server's own, which its Shutdown does not wait for.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).sendAuthErrAccountEvents"),
	)
}

// clientSteps are the steps that the Go client carries out, by name.
var clientSteps = map[string]clientStepFunc{
	"connect":        does((*run).connect),
	"close":          does((*run).closeClient),
	"state":          does((*run).state),
	"authenticate":   does((*run).authenticate),
	"clientId":       does((*run).clientID),
	"wait":           does((*run).wait),
	"now":            does((*run).now),
	"join":           does((*run).join),
	"same":           does((*run).same),
	"publish":        does((*run).publish),
	"publishLossy":   does((*run).publishLossy),
	"publishBatch":   does((*run).publishBatch),
	"publishAsync":   does((*run).publishAsync),
	"settle":         does((*run).settle),
	"subscribe":      does((*run).subscribe),
	"unsubscribe":    does((*run).unsubscribe),
	"expect":         does((*run).expect),
	"until":          does((*run).until),
	"ended":          does((*run).ended),
	"position":       does((*run).keepPosition),
	"positions":      does((*run).keepPositions),
	"setPriority":    does((*run).setPriority),
	"subState":       does((*run).subState),
	"history":        does((*run).history),
	"map":            does((*run).openMap),
	"expectMap":      does((*run).expectMap),
	"request":        does((*run).request),
	"requestMany":    does((*run).requestMany),
	"respond":        does((*run).respond),
	"respondAny":     does((*run).respondAny),
	"expectShared":   does((*run).expectShared),
	"untilEither":    does((*run).untilEither),
	"enter":          does((*run).enter),
	"leave":          does((*run).leave),
	"presence":       does((*run).presence),
	"presenceCount":  does((*run).presenceCount),
	"watchPresence":  does((*run).watchPresence),
	"expectPresence": does((*run).expectPresence),
	"health":         does((*run).health),
}

func TestLocalBus(t *testing.T) {
	contract(t, "local", Options{})
}

func TestNATSBus(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the NATS server does not come up")
	}
	contract(t, "nats", Options{NATS: s.ClientURL()})
}

// contract runs every scenario that an environment has, and tells of the others.
func contract(t *testing.T, env string, o Options) {
	topics, err := os.ReadFile("testdata/topics.json")
	if err != nil {
		t.Fatal(err)
	}
	o.Topics = topics
	w, err := NewWorld(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	absent, together := make(map[string]int), make(map[string]int)
	unique := env[:1] + strconv.FormatInt(time.Now().UnixMilli(), 36)
	for _, s := range loadScenarios(t, unique) {
		if why, not := s.absent(env); not {
			absent[why]++
			t.Logf("not in %s: %s: %s", env, s.Name, why)
			continue
		}
		if s.Together != "" {
			together[s.Together]++
		}
		t.Run(s.Name, func(t *testing.T) { runScenario(t, w, s) })
	}
	for _, why := range slices.Sorted(maps.Keys(absent)) {
		t.Logf("%d scenarios are not run in %s: %s", absent[why], env, why)
	}
	for _, why := range slices.Sorted(maps.Keys(together)) {
		if o.NATS != "" {
			t.Logf("%d scenarios have all clients on one broker of %s: %s", together[why], env, why)
		}
	}
}
