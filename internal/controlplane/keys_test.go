package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// keyMesh is a mesh with an agent that lends a right, one that it is lent to, and
// one that answers.
type keyMesh struct {
	*devmesh.Mesh
	t                     *testing.T
	ctx                   context.Context
	boss, worker, handler *meshclient.Mesh
	lent                  *meshclient.Delegation
}

func newKeyMesh(t *testing.T, edit func(*meshdir.InitOptions)) *keyMesh {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	m, err := devmesh.Start(ctx, filepath.Join(t.TempDir(), "mesh"), devmesh.Options{Configure: edit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	k := &keyMesh{Mesh: m, t: t, ctx: ctx}
	scope := []capability.Scope{capability.RequireScope("read:logs")}
	k.boss = k.agent("boss", registry.Rights{Call: scope, MayDelegate: scope})
	k.worker = k.agent("worker", registry.Rights{Publish: []string{"news"}})
	k.handler = k.agent("handler", registry.Rights{Handle: scope})
	if err := k.handler.Handle("read:logs", func(_ context.Context, r *meshclient.Request) ([]byte, error) {
		return []byte("answer to " + r.From.String()), nil
	}); err != nil {
		t.Fatal(err)
	}
	k.lend()
	return k
}

func (k *keyMesh) agent(id string, r registry.Rights) *meshclient.Mesh {
	k.t.Helper()
	dir, err := k.Add(k.ctx, registry.NewAgent{Agent: agentid.Require(id), Rights: r})
	if err != nil {
		k.t.Fatal(err)
	}
	a, err := k.Connect(k.ctx, dir)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = a.Close() })
	return a
}

func (k *keyMesh) lend() {
	k.t.Helper()
	var err error
	k.lent, err = k.boss.Delegate(k.ctx, "worker", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour})
	if err != nil {
		k.t.Fatal(err)
	}
	k.calls(k.boss, k.worker)
}

// calls has them call until it works; what is decided travels.
func (k *keyMesh) calls(all ...*meshclient.Mesh) {
	k.t.Helper()
	for _, a := range all {
		k.until("call of "+a.ID().String(), func() error {
			_, err := a.Call(k.ctx, "read:logs", []byte("x"))
			return err
		})
	}
}

func (k *keyMesh) until(what string, f func() error) {
	k.t.Helper()
	var err error
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	k.t.Fatalf("%s: %v", what, err)
}

func (k *keyMesh) list() wire.KeyList {
	k.t.Helper()
	var l wire.KeyList
	if err := k.Operate(k.ctx, wire.AdminRequest{Op: wire.OpKeys}, &l); err != nil {
		k.t.Fatal(err)
	}
	return l
}

// signed waits until everything is signed with the keys of the files, by no key that
// leaves.
func (k *keyMesh) signed() {
	k.t.Helper()
	want, err := k.Dir.SigningKeys()
	if err != nil {
		k.t.Fatal(err)
	}
	records, err := want.Records.PublicKey()
	if err != nil {
		k.t.Fatal(err)
	}
	k.until("signing anew", func() error {
		var l wire.KeyList
		if err := k.Operate(k.ctx, wire.AdminRequest{Op: wire.OpKeys}, &l); err != nil {
			return err
		}
		in := slices.ContainsFunc(l.Keys, func(v wire.KeyView) bool { return v.Public == records && v.InUse })
		if !in || l.Unsigned != 0 || l.Leaving || l.Problem != "" {
			return errors.New("not yet: " + l.Problem)
		}
		return nil
	})
}

// end has certificates end, as time would: they are in no list any more, and nobody
// has to wait for them on a machine that may be slow. It returns when all hear of it.
func (k *keyMesh) end(certificates []string) {
	k.t.Helper()
	path := filepath.Join(k.Dir.Dir, "server", "signing-keys.json")
	text, err := os.ReadFile(path)
	if err != nil {
		k.t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		k.t.Fatal(err)
	}
	left := []any{}
	for _, c := range list["certificates"].([]any) {
		if !slices.Contains(certificates, c.(string)) {
			left = append(left, c)
		}
	}
	if len(left) == 0 || len(left) == len(list["certificates"].([]any)) {
		k.t.Fatalf("%d certificates are left of %v", len(left), list["certificates"])
	}
	list["certificates"] = left
	if text, err = json.Marshal(list); err != nil {
		k.t.Fatal(err)
	}
	if err := pki.WriteFile(path, text); err != nil {
		k.t.Fatal(err)
	}
	for _, id := range []string{"boss", "worker", "handler"} {
		k.until("end of certificates at "+id, func() error {
			d, err := agentdir.Open(k.AgentDir(id))
			if err == nil && slices.ContainsFunc(d.Info.SigningKeys, func(c string) bool { return slices.Contains(certificates, c) }) {
				err = errors.New("they still count")
			}
			return err
		})
	}
}

// epochs are those that there are: none may be replaced by a cut.
func (k *keyMesh) epochs() map[string]uint64 {
	k.t.Helper()
	out := map[string]uint64{}
	for _, id := range []string{"boss", "worker", "handler"} {
		var v wire.AgentView
		if err := k.Operate(k.ctx, wire.AdminRequest{Op: wire.OpShow, Target: id}, &v); err != nil {
			k.t.Fatal(err)
		}
		out[id] = v.Epoch
		for _, i := range v.Instances {
			out[id+"/"+i.Instance.String()] = i.Epoch
		}
	}
	return out
}

// New signing keys are taken into use while everything runs: no epoch rises, what was
// lent before counts, and after the end of the old keys all goes on.
func TestSigningKeysOutlived(t *testing.T) {
	t.Parallel()
	k := newKeyMesh(t, nil)
	before := k.epochs()
	old, err := k.Dir.SigningKeys()
	if err != nil {
		t.Fatal(err)
	}
	all := []capability.Purpose{capability.ForTokens, capability.ForRecords}
	if err := k.Dir.ChangeSigningKeys(meshdir.KeyChange{New: all}); err != nil {
		t.Fatal(err)
	}
	k.signed()
	if got := k.epochs(); len(got) != len(before) {
		t.Errorf("got %v, want %v", got, before)
	} else {
		for id, e := range before {
			if got[id] != e {
				t.Errorf("epoch of %s: got %d, want %d as before", id, got[id], e)
			}
		}
	}
	k.calls(k.boss, k.worker)
	var again *agentdir.Dir
	k.until("passport in the directory", func() error {
		if again, err = agentdir.Open(k.AgentDir("boss")); err != nil {
			return err
		}
		pub, _ := old.Records.PublicKey()
		if capability.PassportSigner(again.Info.Passport) == pub {
			return errors.New("still the old passport")
		}
		return nil
	})
	k.end(old.FinalList)
	k.calls(k.boss)
	// What was lent under a passport of the old key ended with it, and is lent again.
	k.until("end of what was lent", func() error {
		_, err := k.worker.Call(k.ctx, "read:logs", nil)
		if denial.Of(err) != denial.ScopeNotHeld && denial.Of(err) != denial.TokenExpired {
			return errors.New("not refused yet")
		}
		return nil
	})
	k.lend()
	// Somebody who was away all the time comes back, and somebody new.
	k.agent("late", registry.Rights{Call: []capability.Scope{capability.RequireScope("read:logs")}})
	if _, err := k.Connect(k.ctx, k.AgentDir("boss")); err != nil {
		t.Errorf("connecting again: %v", err)
	}
}

// Keys that are certified for longer go on, and so does what rests on them.
func TestSigningKeysRenewed(t *testing.T) {
	t.Parallel()
	// Long enough for the slowest machine, short beside what is lent.
	k := newKeyMesh(t, func(o *meshdir.InitOptions) { o.SigningKeys = 20 * time.Minute })
	old, err := k.Dir.SigningKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Dir.ChangeSigningKeys(meshdir.KeyChange{For: 3 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	// What is lent ends no later than the right that it is lent from, and that ended
	// with the key when it was lent.
	k.until("lending for longer than the old certificate lasts", func() error {
		k.lent, err = k.boss.Delegate(k.ctx, "worker", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour})
		if err == nil && time.Until(k.lent.Expires) < 50*time.Minute {
			return errors.New("not yet: " + k.lent.Expires.String())
		}
		return err
	})
	k.end(old.FinalList)
	k.calls(k.boss, k.worker)
	k.lend()
}

// Keys that leaked count no more as soon as nothing rests on them.
func TestSigningKeysLeaked(t *testing.T) {
	t.Parallel()
	k := newKeyMesh(t, nil)
	old, err := k.Dir.SigningKeys()
	if err != nil {
		t.Fatal(err)
	}
	all := []capability.Purpose{capability.ForTokens, capability.ForRecords}
	if err := k.Dir.ChangeSigningKeys(meshdir.KeyChange{New: all, Leaked: true}); err != nil {
		t.Fatal(err)
	}
	k.signed()
	k.calls(k.boss)
	k.until("end of what was lent", func() error {
		_, err := k.worker.Call(k.ctx, "read:logs", nil)
		if denial.Of(err) != denial.ScopeNotHeld {
			return errors.New("not refused yet")
		}
		return nil
	})
	k.lend()
	// What the thief signs counts nowhere.
	forged, err := capability.IssueRoot(old.Tokens, capability.Root{
		Agent: agentid.Require("worker"), Capabilities: []capability.Scope{capability.RequireScope("read:logs")}, Expires: time.Now().Add(time.Hour),
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d, err := agentdir.Open(k.AgentDir("worker"))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := capability.NewKeyring(d.Info.Roots, d.Info.SigningKeys)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := capability.Verify(forged, ring, time.Now()); denial.Of(err) != denial.UnknownSigner {
		t.Errorf("forged token: got %v, want %s", err, denial.UnknownSigner)
	}
	// A control plane that starts does not bring the old keys back.
	if err := k.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if err := k.UpPlane(k.ctx); err != nil {
		t.Fatal(err)
	}
	k.calls(k.boss, k.worker)
	if l := k.list(); l.Leaving {
		t.Error("the keys that leaked are back")
	}
}

// Agents follow from one authority root to the next by the old one's word, keep
// working all the time, and pin the new one alone afterwards.
func TestRootReplaced(t *testing.T) {
	t.Parallel()
	k := newKeyMesh(t, nil)
	next, err := k.Dir.RotateRoot(meshdir.KeyChange{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"boss", "worker", "handler"} {
		k.until("new root of "+id, func() error {
			d, err := agentdir.Open(k.AgentDir(id))
			if err == nil && !slices.Equal(d.Info.Roots, []string{next}) {
				err = errors.New("still the old one")
			}
			return err
		})
	}
	k.calls(k.boss, k.worker)
	if err := k.Dir.FinishSigningKeys(); err != nil {
		t.Fatal(err)
	}
	// What the new root certifies is believed by everybody.
	if err := k.Dir.ChangeSigningKeys(meshdir.KeyChange{New: []capability.Purpose{capability.ForRecords, capability.ForTokens}}); err != nil {
		t.Fatal(err)
	}
	k.signed()
	k.calls(k.boss, k.worker)
	k.lend()
	k.agent("late", registry.Rights{Call: []capability.Scope{capability.RequireScope("read:logs")}})
}

// The drill for a root that leaked: agents elsewhere believe nobody until they are
// enrolled again in their directory; then the old root's signatures count nowhere.
func TestRootLeaked(t *testing.T) {
	t.Parallel()
	k := newKeyMesh(t, nil)
	dir, err := k.Instance(k.ctx, agentid.Require("boss"))
	if err != nil {
		t.Fatal(err)
	}
	far, err := k.Connect(k.ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	k.calls(far)
	leaked := k.Dir.Roots()
	if _, err := k.Dir.RotateRoot(meshdir.KeyChange{Leaked: true}); err != nil {
		t.Fatal(err)
	}
	// Those in the mesh directory were told; they are started again.
	var admin *meshclient.Mesh
	k.until("admin with the new root", func() error {
		admin, err = k.Connect(k.ctx, k.AgentDir("admin"))
		return err
	})
	t.Cleanup(func() { _ = admin.Close() })
	operate := func(req wire.AdminRequest, out any) error {
		body, err := json.Marshal(req)
		if err != nil {
			return err
		}
		r, err := admin.Call(k.ctx, wire.AdminScope, body)
		if err != nil {
			return err
		}
		return json.Unmarshal(r.Data, out)
	}
	k.until("keys that leave", func() error {
		var l wire.KeyList
		if err := operate(wire.AdminRequest{Op: wire.OpKeys}, &l); err != nil {
			return err
		}
		if l.Leaving || l.Unsigned != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := far.Close(); err != nil {
		t.Logf("closing: %v", err) // it believes nobody who could let it say goodbye
	}
	short, cancel := context.WithTimeout(k.ctx, 5*time.Second)
	defer cancel()
	if m, err := k.Connect(short, dir); err == nil {
		_ = m.Close()
		t.Error("an agent that pins the leaked root alone came to terms with the mesh")
	}
	var joined wire.AddResult
	if err := operate(wire.AdminRequest{Op: wire.OpJoin, Target: "boss"}, &joined); err != nil {
		t.Fatal(err)
	}
	token, err := registry.ParseJoinToken(joined.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	before, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := enrol.Enrol(k.ctx, token, dir)
	if err != nil {
		t.Fatal(err)
	}
	if after.Instance != before.Info.Instance || slices.Contains(after.Roots, leaked[0]) {
		t.Errorf("got instance %s with roots %v, want %s without %v", after.Instance, after.Roots, before.Info.Instance, leaked)
	}
	if far, err = k.Connect(k.ctx, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	handler, err := k.Connect(k.ctx, k.AgentDir("handler"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	if err := handler.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if err := k.handler.Close(); err != nil {
		t.Logf("closing: %v", err)
	}
	k.calls(far)
	// Whoever has the old root may sign what he likes.
	ring, err := capability.Follow(after.Roots, append(slices.Clone(before.Info.SigningKeys), after.SigningKeys...))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range ring.Keys() {
		if key.Root == leaked[0] {
			t.Errorf("key %s counts by the leaked root", key.Key)
		}
	}
}

// A new issuer and a new xkey: a server that was not restarted yet is answered with
// the old ones, one that was with the new.
func TestCalloutKeysReplaced(t *testing.T) {
	t.Parallel()
	k := newKeyMesh(t, nil)
	for _, key := range []meshdir.CalloutKey{meshdir.CalloutIssuer, meshdir.CalloutXKey} {
		changes, err := k.Dir.RotateCalloutKey(key, false)
		if err != nil || len(changes) != 1 || !changes[0].Written {
			t.Fatalf("%s: got %+v, %v", key, changes, err)
		}
		if _, err := k.Dir.RotateCalloutKey(key, false); err == nil {
			t.Errorf("%s was replaced twice: a server may still name the first", key)
		}
	}
	want, err := k.Dir.NATSConfig()
	if err != nil {
		t.Fatal(err)
	}
	asked := func() wire.KeyServer {
		for _, s := range k.list().Servers {
			if s.Server == k.Server.ID() {
				return s
			}
		}
		return wire.KeyServer{}
	}
	// The control plane has both, and the server names the old ones.
	k.until("taking the keys over", func() error {
		n := 0
		for _, v := range k.list().Keys {
			if v.Name == "issuer" || v.Name == "xkey" {
				n++
			}
		}
		if n != 4 {
			return errors.New("not yet")
		}
		return nil
	})
	a, err := k.Connect(k.ctx, k.AgentDir("worker"))
	if err != nil {
		t.Fatalf("by the old keys: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if s := asked(); s.Issuer == want.Issuer || s.XKey == want.XKey || s.Issuer == "" {
		t.Errorf("before the restart: got %+v, want the old keys", s)
	}
	// nats-server takes neither by a reload.
	if err := k.Server.Reload(); err == nil {
		t.Error("nats-server took new keys of the callout by a reload: restarts are needed no more")
	}
	k.Server.Close()
	if err := k.UpServer(k.ctx); err != nil {
		t.Fatal(err)
	}
	k.calls(k.boss, k.worker)
	if s := asked(); s.Issuer != want.Issuer || s.XKey != want.XKey {
		t.Errorf("after the restart: got %+v, want %s and %s", s, want.Issuer, want.XKey)
	}
	for _, key := range []meshdir.CalloutKey{meshdir.CalloutIssuer, meshdir.CalloutXKey} {
		if err := k.Dir.FinishCalloutKey(key); err != nil {
			t.Fatal(err)
		}
	}
	if a, err = k.Connect(k.ctx, k.AgentDir("worker")); err != nil {
		t.Fatalf("by the new keys alone: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
