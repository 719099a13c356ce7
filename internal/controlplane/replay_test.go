package controlplane_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

type look struct {
	before, after time.Duration // by the steady clock
	server, own   time.Duration // by their clocks, since the beginning
}

// A clock that is set ahead is found out, slow answers and drift are not taken for
// that, nor is a clock that is set back.
func TestClocks(t *testing.T) {
	t.Parallel()
	wall := time.UnixMilli(1795408791000)
	const s = time.Second
	const server, own = "the server's clock was set ahead", "the control plane's clock was set ahead"
	for name, tt := range map[string]struct {
		looks []look
		want  string // of the last one
	}{
		"steady":                     {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 5 * s, 5 * s}}, ""},
		"server ahead":               {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 26 * s, 5 * s}}, server},
		"server ahead by little":     {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 24 * s, 5 * s}}, ""},
		"own ahead":                  {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 5 * s, 26 * s}}, own},
		"both back":                  {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, -3600 * s, -3600 * s}}, ""},
		"back, and forward again":    {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, -60 * s, 5 * s}, {10 * s, 10 * s, 10 * s, 10 * s}}, server},
		"in small steps":             {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 17 * s, 5 * s}, {10 * s, 10 * s, 32 * s, 10 * s}}, server},
		"a slow answer":              {[]look{{0, 0, 0, 0}, {5 * s, 60 * s, 59 * s, 60 * s}}, ""},
		"a slow answer at first":     {[]look{{0, 60 * s, s, 60 * s}, {65 * s, 65 * s, 65 * s, 65 * s}}, ""},
		"drift over days":            {drift(30), ""},
		"said once":                  {[]look{{0, 0, 0, 0}, {5 * s, 5 * s, 60 * s, 5 * s}, {10 * s, 10 * s, 65 * s, 10 * s}}, ""},
		"long before what is stored": {[]look{{0, 0, 0, 0}, {3600 * s, 3600 * s, 3630 * s, 3600 * s}}, ""},
	} {
		var c controlplane.Clocks
		got := ""
		for i, l := range tt.looks {
			got = c.Look(l.before, l.after, wall.Add(l.server), wall.Add(l.own))
			if i < len(tt.looks)-1 && got != "" && name != "said once" {
				t.Errorf("%s, look %d: got %q", name, i, got)
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

// drift are looks at a server whose clock gains a second a minute.
func drift(minutes int) (out []look) {
	for m := range minutes {
		at := time.Duration(m) * time.Minute
		out = append(out, look{at, at, at + time.Duration(m)*time.Second, at})
	}
	return out
}

// How many servers may be started anew before what they acknowledged may be gone.
func TestLost(t *testing.T) {
	t.Parallel()
	ids := func(list ...string) map[string]string {
		out := map[string]string{}
		for i, id := range list {
			if id != "-" {
				out[fmt.Sprint("n", i)] = id
			}
		}
		return out
	}
	for _, tt := range []struct {
		was, is map[string]string
		want    bool
	}{
		{ids("A"), ids("A"), false},
		{ids("A"), ids("B"), true},
		{ids("A"), ids(""), false}, // it is silent, and may be the same
		{ids("A"), map[string]string{"other": "A"}, true},
		{ids("A", "B", "C"), ids("A", "B", "C"), false},
		{ids("A", "B", "C"), ids("A", "B", "X"), false},
		{ids("A", "B", "C"), ids("A", "X", "Y"), true},
		{ids("A", "B", "C"), ids("X", "", ""), false},
		{ids("A", "B", "C"), ids("-", "B", "C", "D"), false}, // moved
		{ids("A", "B", "C"), ids("-", "-", "-", "D", "E", "F"), true},
		{ids("A", "B", "C", "D", "E"), ids("X", "Y", "C", "D", "E"), false},
		{ids("A", "B", "C", "D", "E"), ids("X", "Y", "Z", "D", "E"), true},
		{nil, ids("A"), true},
	} {
		if got := controlplane.Lost(tt.was, tt.is); got != tt.want {
			t.Errorf("%v, then %v: got %v, want %v", tt.was, tt.is, got, tt.want)
		}
	}
}

// Each setting by which a store would forget is found, and no other.
func TestForgets(t *testing.T) {
	t.Parallel()
	want := natsconf.Replay(limits.Window, 1)
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"max_age":                 func(c *jetstream.StreamConfig) { c.MaxAge-- },
		"max_msgs_per_subject":    func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 },
		"discard":                 func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"discard_new_per_subject": func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = false },
		"deny_delete":             func(c *jetstream.StreamConfig) { c.DenyDelete = false },
		"deny_purge":              func(c *jetstream.StreamConfig) { c.DenyPurge = false },
		"allow_rollup_hdrs":       func(c *jetstream.StreamConfig) { c.AllowRollup = true },
		"allow_msg_ttl":           func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
		"allow_msg_counter":       func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true },
		"allow_msg_schedules":     func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true },
		"allow_atomic":            func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true },
		"max_msg_size":            func(c *jetstream.StreamConfig) { c.MaxMsgSize = -1 },
		"storage":                 func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"retention":               func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"no_ack":                  func(c *jetstream.StreamConfig) { c.NoAck = true },
		"subjects":                func(c *jetstream.StreamConfig) { c.Subjects = nil },
		"mirror":                  func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "X"}} },
		"":                        func(*jetstream.StreamConfig) {},
	} {
		is := want
		change(&is)
		got := controlplane.Forgets(is, want)
		if name == "" && got != "" || name != "" && !strings.HasSuffix(got, " "+name) {
			t.Errorf("%q changed: got %q", name, got)
		}
	}
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"kept for longer": func(c *jetstream.StreamConfig) { c.MaxAge *= 2 },
		"room for less":   func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxBytes = 10, 10 },
		"more replicas":   func(c *jetstream.StreamConfig) { c.Replicas = 3 },
	} {
		is := want
		change(&is)
		if got := controlplane.Forgets(is, want); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) with(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// A handler that fills the store with junk, under the names of others, is named by
// the scope that it may burn.
func TestReplayStoreFillsUp(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var log lines
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.New(&log), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("junk"), Rights: registry.Rights{Handle: scopes("write:reports")}})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := nc.PublishMsg(nats.NewMsg(subject.KV(subject.ReplayBucket, fmt.Sprintf("write.reports.alice.junk-%d", i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	st, err := m.Plane.StoredStreams().Stream(ctx, subject.KVStream(subject.ReplayBucket))
	if err != nil {
		t.Fatal(err)
	}
	var info *jetstream.StreamInfo
	eventually(t, ctx, "the junk in the store", func() bool {
		info, err = st.Info(ctx)
		return err == nil && info.State.Msgs >= 200
	})
	m.Plane.AlarmReplay(ctx, info)
	if l := log.with("half full"); l != "" {
		t.Errorf("an alarm about a store that is hardly used: %s", l)
	}
	info.Config.MaxMsgs = 300
	m.Plane.AlarmReplay(ctx, info)
	if l := log.with("half full"); !strings.Contains(l, "write.reports.alice") {
		t.Errorf("got alarm %q, want one that names write.reports", l)
	}
}
