package attack_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Attack 10: somebody copied an agent's directory and runs it on another host.
// With one session at a time the copy is refused, and the one who was there works
// on. The control run is the same agent without that: there the copy is let in, so
// what keeps it out is the policy. Both are alarmed.
func TestClone(t *testing.T) {
	t.Parallel()
	l := startWith(t, func(o *meshdir.InitOptions) { o.Heartbeat.Interval, o.Heartbeat.Timeout = time.Second, wait })
	for id, sessions := range map[string]registry.Sessions{"lone": registry.SessionsSingle, "twin": registry.SessionsAny} {
		t.Run(string(sessions), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			if _, err := l.dev.Add(ctx, registry.NewAgent{
				Agent: agentid.Require(id), Sessions: sessions, Rights: rights(t, []string{"handle:read:" + id}),
			}); err != nil {
				t.Fatal(err)
			}
			honest := l.agent(id)
			if err := honest.Handle("read:"+id, func(_ context.Context, r *meshclient.Request) ([]byte, error) { return r.Data, nil }); err != nil {
				t.Fatal(err)
			}
			admin, err := l.dev.Admin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			l.operate(wire.AdminRequest{Op: wire.OpGrant, Target: "admin", Rights: rights(t, []string{"read:" + id})}, nil)
			works := func() {
				t.Helper()
				if reply, err := admin.Call(ctx, "read:"+id, []byte("x")); err != nil || string(reply.Data) != "x" {
					t.Errorf("the honest one: %v", err)
				}
			}
			works()
			elsewhere := nats.SetCustomDialer(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}})
			copied, err := l.tryDial(t, id, elsewhere)
			if single := sessions == registry.SessionsSingle; single != errors.Is(err, nats.ErrAuthorization) || single == (err == nil) {
				t.Fatalf("the copy: got %v", err)
			}
			if !within(wait, func() bool {
				if copied != nil {
					if err := copied.Publish("mesh.beat."+id+".x", nil); err != nil {
						t.Fatal(err)
					}
				}
				works()
				var s wire.MeshStatus
				l.operate(wire.AdminRequest{Op: wire.OpStatus}, &s)
				return slices.ContainsFunc(s.Alarms, func(a wire.AlarmView) bool {
					return a.Kind == wire.AlarmClone && a.Agent.String() == id && strings.Join(a.Hosts, " ") == "127.0.0.1 127.0.0.2"
				})
			}) {
				t.Error("nobody was alarmed")
			}
			works()
			if err := honest.Away(); err != nil {
				t.Errorf("the honest one is away: %v", err)
			}
		})
	}
}
