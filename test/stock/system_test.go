//go:build unix

package stock_test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// A cut that nobody can make, because the server does not do what the system account
// asks, is not called done: the agent is refused by everybody, the command and status
// say that it is pending, and it is made good when the server does it again.
func TestSystemAccountDoesNotAnswer(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Init()
	const kick = `"$SYS.REQ.SERVER.*.KICK"`
	m.Edit(m.Conf(), kick, `"$SYS.REQ.SERVER.*.NOT"`)
	server := m.Server(m.Conf())
	m.Plane().Await(process.PlaneUp)
	m.Must("agent", "add", "reader", "--handle", "read:logs", "--enroll")
	m.Must("agent", "add", "asker", "--call", "read:logs", "--enroll")
	handler := m.Run("handle", "read:logs", "--as", "reader", "--", "cat")
	handler.AwaitLog(`"message":"handling"`)
	m.Must("call", "read:logs", "x", "--as", "asker")

	var cut struct {
		Confirmed bool
		Status    string
	}
	r := m.Do("agent", "revoke", "reader", "--reason", "a test", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &cut); err != nil || r.Code != 4 || cut.Confirmed || cut.Status != "revoked" {
		t.Fatalf("got exit code %d, %v\n%s%swant 4, revoked and not confirmed", r.Code, err, r.Stdout, r.Stderr)
	}
	if r := m.Do("status"); r.Code != 1 || !strings.Contains(r.Stdout, "ALARM: the cut of reader is not confirmed since") {
		t.Errorf("status: got exit code %d\n%s", r.Code, r.Stdout)
	}
	// It still has its connection, and nobody believes it.
	if r := m.Do("call", "read:logs", "x", "--as", "asker", "--timeout", "5s"); r.Code == 0 {
		t.Errorf("a revoked agent answered: %s", r.Stdout)
	}

	m.Edit(m.Conf(), `"$SYS.REQ.SERVER.*.NOT"`, kick)
	server.Signal(syscall.SIGHUP)
	m.Eventually(2*process.Soon, "status")
}
