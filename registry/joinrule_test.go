package registry_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func ruleOf(subject string) registry.JoinRule {
	return registry.JoinRule{OIDC: registry.OIDCRule{Issuer: "https://issuer.example", Audience: "sealmesh", Subject: subject}}
}

// pods registers an agent that takes a platform identity.
func (w *world) pods(s *registry.Store, id agentid.ID) registry.JoinRule {
	w.Helper()
	rule := ruleOf("pods of " + id.String())
	rule.OIDC.Subject = "pods:" + id.String()
	if _, err := s.Add(w.ctx(), registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("write:reports")}, Join: rule}, "admin"); err != nil {
		w.Fatal(err)
	}
	return rule
}

func TestJoinRuleIsExact(t *testing.T) {
	long := make([]byte, limits.JoinRuleText+1)
	for i := range long {
		long[i] = 'x'
	}
	good := ruleOf("repo:org/app:ref:refs/heads/main").OIDC
	for name, tt := range map[string]struct {
		edit func(*registry.OIDCRule)
		want denial.Reason
	}{
		"complete":            {func(*registry.OIDCRule) {}, ""},
		"issuer with a path":  {func(o *registry.OIDCRule) { o.Issuer = "https://i.example:8443/realms/x" }, ""},
		"longest subject":     {func(o *registry.OIDCRule) { o.Subject = string(long[1:]) }, ""},
		"no issuer":           {func(o *registry.OIDCRule) { o.Issuer = "" }, denial.BadInput},
		"no audience":         {func(o *registry.OIDCRule) { o.Audience = "" }, denial.BadInput},
		"no subject":          {func(o *registry.OIDCRule) { o.Subject = "" }, denial.BadInput},
		"without TLS":         {func(o *registry.OIDCRule) { o.Issuer = "http://i.example" }, denial.BadInput},
		"a file":              {func(o *registry.OIDCRule) { o.Issuer = "file:///etc/passwd" }, denial.BadInput},
		"a password":          {func(o *registry.OIDCRule) { o.Issuer = "https://a:b@i.example" }, denial.BadInput},
		"a query":             {func(o *registry.OIDCRule) { o.Issuer = "https://i.example?x=1" }, denial.BadInput},
		"an empty query":      {func(o *registry.OIDCRule) { o.Issuer = "https://i.example?" }, denial.BadInput},
		"a fragment":          {func(o *registry.OIDCRule) { o.Issuer = "https://i.example#" }, denial.BadInput},
		"two spellings":       {func(o *registry.OIDCRule) { o.Issuer = "HTTPS://i.example" }, denial.BadInput},
		"a pattern":           {func(o *registry.OIDCRule) { o.Subject = "repo:org/*" }, denial.BadInput},
		"an audience pattern": {func(o *registry.OIDCRule) { o.Audience = "*" }, denial.BadInput},
		"a space":             {func(o *registry.OIDCRule) { o.Subject = "a b" }, denial.BadInput},
		"a control character": {func(o *registry.OIDCRule) { o.Subject = "a\x00" }, denial.BadInput},
		"broken text":         {func(o *registry.OIDCRule) { o.Subject = "\xff" }, denial.BadInput},
		"too long":            {func(o *registry.OIDCRule) { o.Subject = string(long) }, denial.BadInput},
	} {
		o := good
		tt.edit(&o)
		wantReason(t, name, registry.JoinRule{OIDC: o}.Check(), tt.want)
	}
	if err := (registry.JoinRule{}).Check(); err != nil {
		t.Errorf("no rule: %v", err)
	}
}

// A record has the rule, and a change of it takes hold at once.
func TestEnrolByRule(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	rule := w.pods(s, bob)
	w.add(s, carol)
	by := func(id agentid.ID, label string, r registry.JoinRule) error {
		_, _, err := s.EnrolByRule(ctx, w.enrolment("", id, label), r)
		return err
	}
	other := rule
	other.OIDC.Subject += "x"
	for name, tt := range map[string]struct {
		id   agentid.ID
		rule registry.JoinRule
	}{
		"another subject":          {bob, other},
		"nobody":                   {bob, registry.JoinRule{}},
		"an agent without a rule":  {carol, rule},
		"no rule of nobody's":      {carol, registry.JoinRule{}},
		"an agent that is not":     {dave, rule},
		"not even no rule of that": {dave, registry.JoinRule{}},
	} {
		wantReason(t, name, by(tt.id, "pod", tt.rule), denial.BadJoinToken)
	}
	if got := w.agent(s, bob); got.Status != registry.Pending || got.Join != rule {
		t.Fatalf("got %s with %+v", got.Status, got.Join)
	}
	if err := by(bob, "pod 1", rule); err != nil {
		t.Fatal(err)
	}
	if err := by(bob, "pod 1", rule); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := by(bob, "pod 2", rule); err != nil {
		t.Errorf("another pod: %v", err)
	}
	if list, err := s.Instances(ctx, bob); err != nil || len(list) != 2 || w.agent(s, bob).Status != registry.Active {
		t.Errorf("got %d instances of an agent that is %s, %v", len(list), w.agent(s, bob).Status, err)
	}

	if _, err := s.Set(ctx, bob, registry.Settings{Join: &other}, "admin"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the rule of before", by(bob, "pod 3", rule), denial.BadJoinToken)
	if err := by(bob, "pod 3", other); err != nil {
		t.Errorf("the new rule: %v", err)
	}
	if _, err := s.Set(ctx, bob, registry.Settings{Join: &registry.JoinRule{}}, "admin"); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "no rule any more", by(bob, "pod 4", other), denial.BadJoinToken)
	if _, err := s.Set(ctx, bob, registry.Settings{Join: &registry.JoinRule{OIDC: registry.OIDCRule{Issuer: "https://i.example"}}}, "admin"); denial.Of(err) != denial.BadInput {
		t.Errorf("half a rule: got %v", err)
	}
	if _, err := s.Set(ctx, bob, registry.Settings{Join: &rule}, "admin"); err != nil {
		t.Fatal(err)
	}

	// Whom an operator took out no platform brings back; whom silence took out, it does.
	if _, err := s.Suspend(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "suspended", by(bob, "pod 5", rule), denial.Suspended)
	if _, err := s.Resume(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	inst := agentid.InstanceOf(w.enrolment("", bob, "pod 1").Key)
	if _, _, err := s.Attest(ctx, bob, inst, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.ExpireInstance(ctx, bob, inst, w.instance(s, bob, inst).Epoch, "silent"); err != nil {
		t.Fatal(err)
	}
	if got := w.agent(s, bob).Status; got != registry.Expired {
		t.Fatalf("got %s", got)
	}
	if err := by(bob, "pod 5", rule); err != nil {
		t.Errorf("expired: %v", err)
	}
	if _, err := s.Revoke(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "revoked", by(bob, "pod 6", rule), denial.Revoked)
}

// However many pods start at once, the limit holds.
func TestPodsTogetherAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	rule := w.pods(s, bob)
	const room = 5
	r := w.raw()
	for n := range limits.Instances - room {
		r.put(registry.AgentsBucket, registry.InstanceKey(bob, agentid.InstanceOf(fmt.Sprint("pod ", n))), sign(t, &instanceDoc{registry.Instance{
			Agent: bob, Instance: agentid.InstanceOf(fmt.Sprint("pod ", n)), Epoch: 1, Revision: 1, Since: 1, State: registry.Online, NotAfter: start.Add(time.Hour).Unix(),
		}}, "instance", w.records))
	}
	var mu sync.Mutex
	in := 0
	var wg sync.WaitGroup
	for n := range 60 {
		e := w.enrolment("", bob, fmt.Sprint("new ", n))
		wg.Go(func() {
			_, _, err := s.EnrolByRule(w.ctx(), e, rule)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				in++
			} else if denial.Of(err) != denial.QuotaExceeded {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if in != room {
		t.Errorf("%d enrolled where there was room for %d", in, room)
	}
}
