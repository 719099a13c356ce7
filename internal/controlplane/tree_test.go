package controlplane_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// family is a mesh of agents that lent to one another, each connected without a
// client of the mesh's, which would leave by itself where it has to.
//
//	ann ── read:logs ──► bob ──► cid ──► dan ◄── read:logs ── eve
//	ann ── write:reports (her second instance) ──► cid
//
// bob holds write:reports himself as well.
type family struct {
	*devmesh.Mesh
	t      *testing.T
	ctx    context.Context
	dirs   map[string]string // the first instance of each
	annTwo string            // the second one of ann
	chains map[string]*capability.Chain
	conns  map[uint64]*nats.Conn // by their number at the server
	names  map[uint64]string     // whose they are
}

func newFamily(t *testing.T) *family {
	t.Helper()
	m, ctx := start(t, devmesh.Options{})
	f := &family{
		Mesh: m, t: t, ctx: ctx, dirs: map[string]string{}, chains: map[string]*capability.Chain{},
		conns: map[uint64]*nats.Conn{}, names: map[uint64]string{},
	}
	read, write := scopes("read:logs"), scopes("write:reports")
	for name, r := range map[string]registry.Rights{
		"ann": {Call: slices.Concat(read, write), MayDelegate: slices.Concat(read, write)},
		"bob": {Call: write},
		"cid": {},
		"dan": {},
		"eve": {Call: read, MayDelegate: read},
	} {
		f.dirs[name] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(name), Heartbeat: registry.HeartbeatNone, Rights: r})
	}
	var err error
	if f.annTwo, err = m.Instance(ctx, agentid.Require("ann")); err != nil {
		t.Fatal(err)
	}
	// Whoever delegates must have been admitted once.
	for _, name := range slices.Sorted(maps.Keys(f.dirs)) {
		f.connect(name, f.dirs[name])
	}
	f.connect("ann", f.annTwo)
	f.disconnect()

	f.lend("ann-bob", f.dirs["ann"], f.root("ann"), "bob", read, read)
	f.lend("bob-cid", f.dirs["bob"], f.chains["ann-bob"], "cid", read, read)
	f.lend("cid-dan", f.dirs["cid"], f.chains["bob-cid"], "dan", read, nil)
	f.lend("eve-dan", f.dirs["eve"], f.root("eve"), "dan", read, nil)
	f.lend("ann-cid", f.annTwo, f.root("ann"), "cid", write, nil)
	f.connect("ann", f.dirs["ann"])
	f.connect("ann", f.annTwo)
	f.connect("bob", f.dirs["bob"], "ann-bob")
	f.connect("cid", f.dirs["cid"], "bob-cid", "ann-cid")
	f.connect("cid", f.dirs["cid"], "ann-cid")
	f.connect("dan", f.dirs["dan"], "cid-dan", "eve-dan")
	f.connect("dan", f.dirs["dan"], "eve-dan")
	f.connect("eve", f.dirs["eve"])
	return f
}

func (f *family) root(name string) *capability.Chain {
	f.t.Helper()
	a, err := f.Plane.Store().Agent(f.ctx, agentid.Require(name))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := f.Plane.Store().Chain(f.ctx, a.Tokens[0])
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// lend signs a delegation with the key in dir and stores it.
func (f *family) lend(name, dir string, from *capability.Chain, to string, what, onward []capability.Scope) {
	f.t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := d.Key()
	if err != nil {
		f.t.Fatal(err)
	}
	now := time.Now()
	expires := now.Add(time.Hour)
	if end := from.Expires(); end.Before(expires) {
		expires = end
	}
	delegation := capability.Delegation{To: agentid.Require(to), Scopes: what, Delegatable: onward, Expires: expires}
	if len(onward) > 0 {
		delegation.Depth = from.Depth() - 1
	}
	text, err := capability.Delegate(from, key, d.Info.Passport, delegation, now)
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	if f.chains[name], err = f.Plane.Store().Upload(f.ctx, d.Info.Agent, text); err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
}

func (f *family) connect(name, dir string, presented ...string) {
	f.t.Helper()
	var digests []string
	for _, p := range presented {
		digests = append(digests, f.chains[p].Digest())
	}
	nc, err := raw(f.t, dir, digests...)
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	id, err := nc.GetClientID()
	if err != nil {
		f.t.Fatal(err)
	}
	f.conns[id], f.names[id] = nc, name
}

func (f *family) disconnect() {
	f.t.Helper()
	for id, nc := range f.conns {
		nc.Close()
		delete(f.conns, id)
	}
	eventually(f.t, f.ctx, "the end of the connections", func() bool {
		for name := range f.dirs {
			sessions, err := f.Plane.Store().Sessions(f.ctx, agentid.Require(name))
			if err != nil {
				f.t.Fatal(err)
			}
			if len(sessions) > 0 {
				return false
			}
		}
		return true
	})
}

// holdings is what each agent may do now.
func (f *family) holdings() map[string][]string {
	f.t.Helper()
	out := map[string][]string{}
	for name := range f.dirs {
		v := show(f.t, f.ctx, f.Mesh, name)
		if v.Status != registry.Active {
			continue
		}
		all := slices.Clone(v.Call)
		for _, d := range v.Delegated {
			all = append(all, d.Scopes...)
		}
		out[name] = texts(all)
	}
	return out
}

func (f *family) revisions() map[string]uint64 {
	f.t.Helper()
	agents, err := f.Plane.Store().Agents(f.ctx, true)
	if err != nil {
		f.t.Fatal(err)
	}
	instances, err := f.Plane.Store().Instances(f.ctx, agentid.ID{})
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, a := range agents {
		out[a.Agent.String()] = a.Revision
	}
	for _, i := range instances {
		out[registry.InstanceKey(i.Agent, i.Instance)] = i.Revision
	}
	return out
}

func (f *family) open() []uint64 {
	var out []uint64
	for id, nc := range f.conns {
		if !nc.IsClosed() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func texts(s []capability.Scope) []string {
	out := []string{}
	for _, s := range s {
		out = append(out, s.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// What the dry run of a cut says is what the cut then does, and the dry run does
// nothing.
func TestDryRunIsWhatTheCutDoes(t *testing.T) {
	t.Parallel()
	end := func(chain string) func(*family) wire.AdminRequest {
		return func(f *family) wire.AdminRequest {
			return wire.AdminRequest{Op: wire.OpEnd, Chain: f.chains[chain].Digest()}
		}
	}
	on := func(op wire.Op, target string) func(*family) wire.AdminRequest {
		return func(*family) wire.AdminRequest { return wire.AdminRequest{Op: op, Target: target} }
	}
	instance := func(second bool) func(*family) wire.AdminRequest {
		return func(f *family) wire.AdminRequest {
			dir := f.dirs["ann"]
			if second {
				dir = f.annTwo
			}
			d, err := agentdir.Open(dir)
			if err != nil {
				f.t.Fatal(err)
			}
			return wire.AdminRequest{Op: wire.OpRevoke, Target: "ann/" + d.Info.Instance.String()}
		}
	}
	ungrant := func(target string, r registry.Rights) func(*family) wire.AdminRequest {
		return func(*family) wire.AdminRequest {
			return wire.AdminRequest{Op: wire.OpUngrant, Target: target, Rights: r}
		}
	}
	for name, tt := range map[string]struct {
		req   func(*family) wire.AdminRequest
		would map[string]string // agent: what it loses / what it keeps
	}{
		"suspend ann": {on(wire.OpSuspend, "ann"), map[string]string{
			"ann": "[read:logs write:reports]/[]", "bob": "[read:logs]/[]", "cid": "[read:logs write:reports]/[]", "dan": "[]/[read:logs]",
		}},
		"suspend bob":          {on(wire.OpSuspend, "bob"), map[string]string{"bob": "[read:logs write:reports]/[]", "cid": "[read:logs]/[]", "dan": "[]/[read:logs]"}},
		"suspend dan":          {on(wire.OpSuspend, "dan"), map[string]string{"dan": "[read:logs]/[]"}},
		"revoke ann":           {on(wire.OpRevoke, "ann"), map[string]string{"ann": "[read:logs write:reports]/[]", "bob": "[read:logs]/[]", "cid": "[read:logs write:reports]/[]", "dan": "[]/[read:logs]"}},
		"revoke eve":           {on(wire.OpRevoke, "eve"), map[string]string{"eve": "[read:logs]/[]", "dan": "[]/[read:logs]"}},
		"rm cid":               {on(wire.OpRemove, "cid"), map[string]string{"cid": "[read:logs write:reports]/[]", "dan": "[]/[read:logs]"}},
		"revoke ann's first":   {instance(false), map[string]string{"bob": "[read:logs]/[]", "cid": "[read:logs]/[]", "dan": "[]/[read:logs]"}},
		"revoke ann's second":  {instance(true), map[string]string{"cid": "[write:reports]/[]"}},
		"ungrant ann's read":   {ungrant("ann", registry.Rights{Call: scopes("read:logs")}), map[string]string{"ann": "[read:logs]/[]", "bob": "[read:logs]/[]", "cid": "[read:logs write:reports]/[]", "dan": "[]/[read:logs]"}},
		"ungrant ann's onward": {ungrant("ann", registry.Rights{MayDelegate: scopes("read:logs")}), map[string]string{"bob": "[read:logs]/[]", "cid": "[read:logs write:reports]/[]", "dan": "[]/[read:logs]"}},
		"ungrant bob's own":    {ungrant("bob", registry.Rights{Call: scopes("write:reports")}), map[string]string{"bob": "[write:reports]/[]"}},
		"end ann to bob":       {end("ann-bob"), map[string]string{"bob": "[read:logs]/[]", "cid": "[read:logs]/[]", "dan": "[]/[read:logs]"}},
		"end cid to dan":       {end("cid-dan"), map[string]string{"dan": "[]/[read:logs]"}},
		"end eve to dan":       {end("eve-dan"), map[string]string{"dan": "[]/[read:logs]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFamily(t)
			held, revisions, open := f.holdings(), f.revisions(), f.open()
			req := tt.req(f)
			req.Reason = "a test"
			var dry, done wire.CutResult
			req.DryRun = true
			if err := f.Operate(f.ctx, req, &dry); err != nil {
				t.Fatal(err)
			}
			if got := f.revisions(); !maps.Equal(got, revisions) {
				t.Errorf("got records %v after the dry run, want %v", got, revisions)
			}
			if got := f.open(); !slices.Equal(got, open) {
				t.Errorf("got %d connections after the dry run, want %d", len(got), len(open))
			}
			if !dry.DryRun || !dry.Confirmed {
				t.Errorf("got %+v, want a confirmed dry run", dry)
			}
			would := map[string]string{}
			for _, l := range dry.Would {
				would[l.Agent.String()] = fmt.Sprint(texts(l.Loses)) + "/" + fmt.Sprint(texts(l.Keeps))
			}
			if !maps.Equal(would, tt.would) {
				t.Errorf("got losses %v, want %v", would, tt.would)
			}

			req.DryRun = false
			if err := f.Operate(f.ctx, req, &done); err != nil {
				t.Fatal(err)
			}
			if done.Cut != dry.Cut || !slices.Equal(done.Delegates, dry.Delegates) || done.Epoch != dry.Epoch || done.Status != dry.Status {
				t.Errorf("got %+v, and the dry run said %+v", done, dry)
			}
			left := open
			for _, c := range dry.Closes {
				if f.names[c.Client] != c.Agent.String() || c.Instance.IsZero() {
					t.Errorf("connection %d is said to be %s/%s's, it is %s's", c.Client, c.Agent, c.Instance, f.names[c.Client])
				}
				left = slices.DeleteFunc(slices.Clone(left), func(id uint64) bool { return id == c.Client })
			}
			eventually(t, f.ctx, "the end of what was said to end", func() bool { return len(f.open()) <= len(left) })
			if got := f.open(); !slices.Equal(got, left) {
				t.Errorf("got connections %v left, the dry run said %v", got, left)
			}
			has := f.holdings()
			for agent, had := range held {
				lost := slices.DeleteFunc(slices.Clone(had), func(s string) bool { return slices.Contains(has[agent], s) })
				said := []string{}
				for _, l := range dry.Would {
					if l.Agent.String() == agent {
						said = texts(l.Loses)
					}
				}
				if !slices.Equal(lost, said) {
					t.Errorf("%s lost %v, the dry run said %v", agent, lost, said)
				}
			}
		})
	}
}

// Whatever is no cut has no dry run.
func TestDryRunOfOthers(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	for _, op := range []wire.Op{wire.OpResume, wire.OpGrant, wire.OpJoin, wire.OpShow, wire.OpList, wire.OpDelegated, wire.OpAdd} {
		if err := m.Operate(ctx, wire.AdminRequest{Op: op, Target: "admin", DryRun: true}, nil); denial.Of(err) != denial.BadInput {
			t.Errorf("%s: got %v, want %q", op, err, denial.BadInput)
		}
	}
}

// drawn is a tree in words.
func drawn(list []wire.LentView) string {
	out := ""
	for _, v := range list {
		out += fmt.Sprintf("(%s>%s %v d%d c%d %s %v", v.From, v.To, texts(v.Scopes), v.Depth, v.Connections, cmp.Or(string(v.Ended), "stands"), v.Through)
		out += drawn(v.Lent) + ")"
	}
	return out
}

// The tree of an agent shows what became of what it lent.
func TestDelegationTree(t *testing.T) {
	t.Parallel()
	f := newFamily(t)
	tree := func(name string) (lent, held string) {
		t.Helper()
		var v wire.DelegationTree
		if err := f.Operate(f.ctx, wire.AdminRequest{Op: wire.OpDelegated, Target: name}, &v); err != nil {
			t.Fatal(err)
		}
		return drawn(v.Lent), drawn(v.Held)
	}
	check := func(name, lent, held string) {
		t.Helper()
		if gotLent, gotHeld := tree(name); gotLent != lent || gotHeld != held {
			t.Errorf("%s: got\n%s\n%s\nwant\n%s\n%s", name, gotLent, gotHeld, lent, held)
		}
	}
	check("ann", "(ann>bob [read:logs] d2 c1 stands [](bob>cid [read:logs] d1 c1 stands [ann](cid>dan [read:logs] d0 c1 stands [ann bob])))"+
		"(ann>cid [write:reports] d0 c2 stands [])", "")
	check("cid", "(cid>dan [read:logs] d0 c1 stands [ann bob])",
		"(ann>cid [write:reports] d0 c2 stands [])(bob>cid [read:logs] d1 c1 stands [ann])")
	check("dan", "", "(cid>dan [read:logs] d0 c1 stands [ann bob])(eve>dan [read:logs] d0 c2 stands [])")
	check("admin", "", "")
	if err := f.Operate(f.ctx, wire.AdminRequest{Op: wire.OpEnd, Chain: f.chains["bob-cid"].Digest()}, nil); err != nil {
		t.Fatal(err)
	}
	check("ann", "(ann>bob [read:logs] d2 c1 stands [](bob>cid [read:logs] d1 c0 token-taken-back [ann](cid>dan [read:logs] d0 c0 token-taken-back [ann bob])))"+
		"(ann>cid [write:reports] d0 c1 stands [])", "")
	if err := f.Operate(f.ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "ann"}, nil); err != nil {
		t.Fatal(err)
	}
	check("dan", "", "(cid>dan [read:logs] d0 c0 delegator-cut [ann bob])(eve>dan [read:logs] d0 c1 stands [])")
	if err := f.Operate(f.ctx, wire.AdminRequest{Op: wire.OpDelegated, Target: "nobody"}, nil); denial.Of(err) != denial.UnlistedAgent {
		t.Errorf("got %v, want %q", err, denial.UnlistedAgent)
	}
}

// Cutting an agent cuts, in the same operation, what it lent, however deep; and
// whoever it was lent to goes on at once with what is its own.
func TestCascade(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	own, lent := scopes("own:work"), scopes("read:logs")
	server := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("server"), Rights: registry.Rights{Handle: slices.Concat(own, lent)}}))
	for _, s := range []string{"own:work", "read:logs"} {
		if err := server.Handle(s, func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"lvl0", "lvl1", "lvl2", "lvl3"}
	var agents []*meshclient.Mesh
	for i, name := range names {
		n := registry.NewAgent{Agent: agentid.Require(name), Rights: registry.Rights{Call: own}}
		if i == 0 {
			n.Rights = registry.Rights{Call: slices.Concat(own, lent), MayDelegate: lent}
		}
		c := connect(t, ctx, m, add(t, ctx, m, n))
		agents = append(agents, c)
		if i == 0 {
			continue
		}
		g := meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour}
		if i < len(names)-1 {
			g.Delegatable = g.Scopes
		}
		if _, err := agents[i-1].Delegate(ctx, name, g); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, "the delegated call of "+name, func() bool { _, err := c.Call(ctx, "read:logs", nil); return err == nil })
	}
	begin := time.Now()
	var r wire.CutResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "lvl0"}, &r); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	if !r.Confirmed || fmt.Sprint(r.Delegates) != "[lvl1 lvl2 lvl3]" || r.Cut < len(names) {
		t.Errorf("got %+v, want four connections of four agents cut", r)
	}
	for _, name := range names[1:] {
		sessions, err := m.Plane.Store().Sessions(ctx, agentid.Require(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sessions {
			if len(s.Via) > 0 {
				t.Errorf("a session of %s still rests on what %v lent", name, s.Via)
			}
		}
	}
	var wg sync.WaitGroup
	back := make([]time.Duration, len(names))
	for i, c := range agents[1:] {
		wg.Go(func() {
			if _, err := c.Call(ctx, "read:logs", nil); denial.Of(err) != denial.DelegatorCut && denial.Of(err) != denial.ScopeNotHeld {
				t.Errorf("%s: got %v by what was lent", names[i+1], err)
			}
			if _, err := c.Call(ctx, "own:work", nil); err != nil {
				t.Errorf("%s: got %v by its own right", names[i+1], err)
			}
			back[i+1] = time.Since(begin)
		})
	}
	wg.Wait()
	for i, d := range back {
		if d > time.Second {
			t.Errorf("%s worked on after %s", names[i], d)
		}
	}
	t.Logf("cut in %s; own calls went on after %s", took.Round(time.Millisecond), back[1:])
}
