//go:build unix

package stock_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// back bounds how long a running agent takes to find its way back. A connection
// that reaches nats-server before the control plane is there is held; nats.go
// gives it up when the server's first ping comes, after two seconds, and tries
// again after a pause.
const back = 30 * time.Second

// ending bounds an end in order. A nats-server that was asked to end waits for
// the callouts that nobody answers any more, at most authorization.timeout, ten
// seconds.
const ending = 20 * time.Second

// deployment is a nats-server and a control plane beside it.
type deployment struct {
	*process.Mesh
	t      *testing.T
	server *process.Process
	plane  *process.Process
}

func (d *deployment) startServer() { d.server = d.Server(d.Conf()) }

func (d *deployment) startPlane() { d.plane = d.Plane() }

func (d *deployment) stopServer() { d.server.Terminate(ending) }

func (d *deployment) stopPlane() {
	d.t.Helper()
	if code := d.plane.Terminate(ending); code != 0 {
		d.t.Errorf("control plane: got exit code %d, want 0", code)
	}
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{Mesh: process.NewMesh(t, programs), t: t}
	d.Init()
	d.startServer()
	d.startPlane()
	d.plane.Await(process.PlaneUp)
	return d
}

// records is what the registry says of every agent, without what depends on who
// is connected at the moment.
func (d *deployment) records() string {
	d.t.Helper()
	var doc struct {
		Agents []map[string]any `json:"agents"`
	}
	d.Document(&doc, "agent", "ls")
	for _, a := range doc.Agents {
		instances, ok := a["instances"].([]any)
		if !ok {
			d.t.Fatalf("agent %v has no instances", a["agent"])
		}
		for _, i := range instances {
			instance, ok := i.(map[string]any)
			if !ok {
				d.t.Fatalf("agent %v has an instance of type %T", a["agent"], i)
			}
			for _, passing := range []string{"connections", "server", "host", "last_beat", "client"} {
				delete(instance, passing)
			}
			// A command has always left again; its goodbye may be under way.
			if instance["state"] == "online" {
				instance["state"] = "left"
			}
		}
	}
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// One mesh goes through every kind of restart, and one handler with it.
func TestRestart(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	for _, args := range [][]string{
		{"reader", "--handle", "read:logs", "--label", "site=north"},
		{"asker", "--call", "read:logs"},
		{"lender", "--call", "read:logs", "--may-delegate", "read:logs"},
		{"borrower"},
		{"topical", "--publish", "news.sport", "--subscribe", "news.weather"},
		{"gone", "--call", "read:logs"},
		{"away", "--call", "read:logs"},
		{"twice", "--call", "read:logs"},
	} {
		d.Must(append([]string{"agent", "add", "--enroll"}, args...)...)
	}
	d.Must("agent", "add", "waiting", "--call", "read:logs") // never enrolled
	d.Must("agent", "revoke", "gone", "--reason", "lost")
	d.Must("agent", "suspend", "away", "--reason", "holiday")
	d.Must("agent", "suspend", "twice")
	d.Must("agent", "resume", "twice")
	d.Must("token", "delegate", "--as", "lender", "--to", "borrower", "--scope", "read:logs", "--send")

	// The answer names the process that handles, so that another one that came in
	// its place would be seen.
	handler := d.Run("handle", "read:logs", "--as", "reader", "--", "sh", "-c", `printf "$PPID "; cat`)
	handler.AwaitLog(`"message":"handling"`)
	want := strconv.Itoa(handler.PID()) + " hello"
	callers := []string{"asker", "lender", "borrower", "twice"}
	for _, id := range callers {
		if got := d.Must("call", "read:logs", "hello", "--as", id); got != want {
			t.Fatalf("call by %s: got %q, want %q", id, got, want)
		}
	}
	before := d.records()

	for _, c := range []struct {
		name string
		// restart ends what it ends and calls away while that is down.
		restart func(away func())
	}{
		// In this order hardly any end has to wait, see ending.
		{"nats-server alone", func(away func()) {
			d.stopServer()
			away()
			d.startServer()
		}},
		{"nats-server alone, killed", func(away func()) {
			d.server.Kill()
			away()
			d.startServer()
		}},
		{"control plane alone", func(func()) {
			d.stopPlane()
			d.startPlane()
			d.plane.Await(process.PlaneUp)
		}},
		{"control plane alone, killed", func(func()) {
			d.plane.Kill()
			d.startPlane()
			d.plane.Await(process.PlaneUp)
		}},
		{"both, control plane first, nats-server killed", func(away func()) {
			d.stopPlane()
			d.server.Kill()
			away()
			d.startPlane() // it waits for its nats-server
			d.startServer()
			d.plane.Await(process.PlaneUp)
		}},
		{"both, nats-server first", func(away func()) {
			d.stopServer()
			d.stopPlane()
			away()
			d.startServer()
			d.startPlane()
			d.plane.Await(process.PlaneUp)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.restart(func() {
				if r := d.Do("call", "read:logs", "hello", "--as", "asker", "--timeout", "300ms"); r.Code != 4 {
					t.Errorf("call while the mesh is away: got exit code %d, want 4\n%s", r.Code, r.Stderr)
				}
			})
			start := time.Now()
			d.Eventually(back, "status", "--timeout", "5s")
			up := time.Since(start)
			if got := d.Eventually(back, "call", "read:logs", "hello", "--as", "asker", "--timeout", "5s"); got != want {
				t.Errorf("call after the restart: got %q, want %q", got, want)
			}
			t.Logf("commands work after %s, the handler answers after %s", up.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))

			if after := d.records(); after != before {
				t.Errorf("the registry changed over a restart:\n%s", difference(before, after))
			}
			for _, id := range callers {
				if got := d.Must("call", "read:logs", "hello", "--as", id, "--timeout", "10s"); got != want {
					t.Errorf("call by %s: got %q, want %q", id, got, want)
				}
			}
			for id, why := range map[string]string{"gone": "revoked", "away": "suspended"} {
				r := d.Do("call", "read:logs", "hello", "--as", id)
				if r.Code != 3 || !strings.Contains(r.Stderr, "denied: "+why) {
					t.Errorf("call by %s: got exit code %d, want 3 and %q\n%s", id, r.Code, why, r.Stderr)
				}
			}
		})
	}

	// What was decided can be decided on.
	d.Must("agent", "resume", "away")
	if got := d.Must("call", "read:logs", "hello", "--as", "away"); got != want {
		t.Errorf("call by the one resumed: got %q, want %q", got, want)
	}
	if r := d.Do("agent", "resume", "gone"); r.Code != 1 {
		t.Errorf("resuming a revoked agent: got exit code %d, want 1", r.Code)
	}
	if code := handler.Terminate(ending); code != 0 {
		t.Errorf("handler: got exit code %d, want 0", code)
	}
	d.stopPlane()
}

// difference returns the lines that are in only one of two texts.
func difference(before, after string) string {
	count := map[string]int{}
	for l := range strings.Lines(before) {
		count[l]++
	}
	var b strings.Builder
	for l := range strings.Lines(after) {
		if count[l]--; count[l] < 0 {
			b.WriteString("+" + l)
		}
	}
	for l := range strings.Lines(before) {
		if count[l] > 0 {
			count[l]--
			b.WriteString("-" + l)
		}
	}
	return b.String()
}
