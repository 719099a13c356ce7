package meshclient_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), part)
}

// until waits for something that takes its time on a busy machine.
func until(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func leafOf(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := d.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// A certificate is replaced before it ends, with a new key each time, and the
// connection with it.
func TestRenewalByItself(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.Certificate = 8 * time.Second
	m := mesh(t, o)
	readerDir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	askerDir := enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")})
	reader, asker := connected(t, m, readerDir), connected(t, m, askerDir)
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 90*time.Second)
	first := leafOf(t, readerDir)
	keys := map[string]bool{string(first.RawSubjectPublicKeyInfo): true}
	serials := map[string]bool{first.SerialNumber.Text(16): true}
	for len(serials) < 3 {
		if _, err := asker.Call(ctx, "read:logs", nil); err != nil {
			t.Fatalf("after %d certificates: %v", len(serials), err)
		}
		leaf := leafOf(t, readerDir)
		keys[string(leaf.RawSubjectPublicKeyInfo)] = true
		serials[leaf.SerialNumber.Text(16)] = true
	}
	if len(keys) != len(serials) {
		t.Errorf("got %d keys for %d certificates, want a new one each time", len(keys), len(serials))
	}
	until(t, ctx, "the rotation", func() bool { return reader.Rotations() >= 2 })
	h := reader.Health()
	if !h.Connected || h.Away != "" || h.RenewalError != "" || !h.CertificateNotAfter.After(first.NotAfter) {
		t.Errorf("got %+v", h)
	}
	if text, err := json.Marshal(h); err != nil || !strings.Contains(string(text), `"certificate_alarm":false`) {
		t.Errorf("got %s, %v", text, err)
	}
}

// While nobody renews, it is tried again and again and never without a pause, an
// operator is told once for each part of the life that is gone, and when somebody is
// there again a person comes back by its key.
func TestRenewalWhileTheControlPlaneIsAway(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.Certificate = 6 * time.Second
	m := mesh(t, o)
	ctx := within(t, 90*time.Second)
	dir, err := m.Add(ctx, registry.NewAgent{Agent: agentid.Require("reader"), Kind: registry.Person, Rights: registry.Rights{Call: scopes("read:logs")}})
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	reader := connected(t, m, dir, meshclient.Log(zerolog.New(log)))
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	end := reader.Health().CertificateNotAfter
	until(t, ctx, "the end", func() bool { return log.count("has ended") > 0 })
	h := reader.Health()
	if !h.CertificateAlarm || h.RenewalError == "" || !h.CertificateNotAfter.Equal(end) {
		t.Errorf("got %+v", h)
	}
	if n := log.count(`"level":"error","agent":"reader"`); n < 1 || n > 4 {
		t.Errorf("%d lines of alarm, want one a stage", n)
	}
	if tries := log.count("could not be renewed yet"); tries < 1 || tries > 60 {
		t.Errorf("%d tries, want some and not many", tries)
	}
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "the return", func() bool {
		h := reader.Health()
		return h.Connected && h.Away == "" && h.CertificateNotAfter.After(end) && !h.CertificateAlarm
	})
}

// Tries come at ever longer intervals, in proportion to the life, and no two programs
// come at the same time.
func TestRenewalTimes(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct{ life, least, most time.Duration }{
		{5 * time.Second, 125 * time.Millisecond, 1500 * time.Millisecond},
		{time.Minute, 300 * time.Millisecond, 4500 * time.Millisecond},
		{24 * time.Hour, 15 * time.Second, 23 * time.Minute},
		{7 * 24 * time.Hour, 15 * time.Second, 23 * time.Minute},
	} {
		leaf := &x509.Certificate{Raw: []byte{1}, NotBefore: now.Add(-pki.Backdate), NotAfter: now.Add(tt.life)}
		waits := meshclient.Waits(leaf, 40)
		var all time.Duration
		for _, w := range waits {
			if all += w; w < tt.least || w > tt.most {
				t.Errorf("life of %s: a try after %s, want %s to %s", tt.life, w, tt.least, tt.most)
			}
		}
		if all < 40*tt.most/8 {
			t.Errorf("life of %s: 40 tries within %s", tt.life, all)
		}
		dues := map[time.Time]bool{}
		for range 50 {
			due := meshclient.Due(leaf)
			dues[due] = true
			if at := due.Sub(now); at < tt.life*4/10 || at > tt.life/2 {
				t.Errorf("life of %s: renewed after %s", tt.life, at)
			}
		}
		if len(dues) < 40 {
			t.Errorf("life of %s: 50 programs come at %d times", tt.life, len(dues))
		}
	}
}

// The control plane has an instance rotate: with a new key, after a time of its own,
// and nobody else.
func TestOrderedRotation(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	readerDir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	otherDir := enrolled(t, m, "other", registry.Rights{Call: scopes("read:logs")})
	enrolled(t, m, "absent", registry.Rights{Call: scopes("read:logs")})
	more, err := m.Instance(ctx, agentid.Require("reader"))
	if err != nil {
		t.Fatal(err)
	}
	first, second, other := connected(t, m, readerDir), connected(t, m, more), connected(t, m, otherDir)
	before, twin := leafOf(t, readerDir), leafOf(t, more)

	var r wire.Rotation
	rotate := func(target string, over time.Duration) {
		t.Helper()
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRotate, Target: target, Over: over}, &r); err != nil {
			t.Fatal(err)
		}
	}
	rotate("reader/"+first.Instance().String(), time.Millisecond)
	if len(r.Told) != 1 || r.Told[0].Instance != first.Instance() || r.Told[0].Serial != before.SerialNumber.Text(16) || len(r.Away) != 0 {
		t.Fatalf("got %+v", r)
	}
	until(t, ctx, "the rotation", func() bool { return first.Rotations() > 0 })
	if after := leafOf(t, readerDir); after.Equal(before) || bytes.Equal(after.RawSubjectPublicKeyInfo, before.RawSubjectPublicKeyInfo) {
		t.Error("the instance has the certificate or the key that it had")
	}
	if !first.Ordered().IsZero() {
		t.Error("the order was carried out, and stays")
	}
	if second.Rotations() != 0 || !leafOf(t, more).Equal(twin) || other.Rotations() != 0 {
		t.Error("somebody else rotated as well")
	}

	r = wire.Rotation{}
	rotate("", 24*time.Hour)
	told := map[string]bool{}
	for i, v := range r.Told {
		told[v.Agent.String()] = true
		// Each has its share of the time, and a moment in it.
		share := r.OverMS / int64(len(r.Told))
		if v.DelayMS < int64(i)*share || v.DelayMS > int64(i+1)*share+1 {
			t.Errorf("%s rotates after %d ms, want within its share %d", v.Agent, v.DelayMS, i)
		}
	}
	if len(r.Told) != 4 || !told["reader"] || !told["other"] || !told["admin"] || len(r.Away) != 1 || r.Away[0].Agent.String() != "absent" {
		t.Errorf("got %+v, want both readers, other and admin told, and absent away", r)
	}
	until(t, ctx, "the order", func() bool { return !second.Ordered().IsZero() })
	// An earlier one counts.
	rotate("reader", time.Millisecond)
	until(t, ctx, "the rotation of the other", func() bool { return second.Rotations() > 0 })
	for _, bad := range []wire.AdminRequest{
		{Op: wire.OpRotate, Target: "nobody"}, {Op: wire.OpRotate, Target: "control"}, {Op: wire.OpRotate, Target: "reader", Over: -1},
		{Op: wire.OpRotate, Over: 25 * time.Hour}, {Op: wire.OpRotate, Target: "reader/" + other.Instance().String()},
	} {
		if err := m.Operate(ctx, bad, nil); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// A note to rotate counts from the control plane alone, whatever the broker lets
// through: whoever could have others rotate could keep them busy.
func TestForgedRotation(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	readerDir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	otherDir := enrolled(t, m, "other", registry.Rights{Call: scopes("read:logs")})
	reader := connected(t, m, readerDir)
	forger := intrude(t, otherDir)
	body, err := json.Marshal(wire.RotateNote{Instance: reader.Instance()})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []agentid.ID{forger.Self, agentid.Control} {
		msg, _, _, err := forger.Message(forger.Space.Note(from, reader.ID(), wire.NoteRotate), envelope.Fields{ContentType: "application/json"}, nil, body, nil)
		if err != nil {
			t.Fatal(err)
		}
		reader.TakeNote(msg)
		if !reader.Ordered().IsZero() || reader.Rotations() != 0 {
			t.Errorf("a note that %s forged on the subject of %s counts", forger.Self, from)
		}
	}
	// The way is the same for one that is genuine.
	if err := m.Operate(within(t, 30*time.Second), wire.AdminRequest{Op: wire.OpRotate, Target: "reader", Over: time.Hour}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the genuine one", func() bool { return !reader.Ordered().IsZero() })
}
