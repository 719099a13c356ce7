package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"natsd": func() {
			if _, err := natsserver.Start(context.Background(), natsserver.Config{File: os.Args[1], Log: zerolog.New(os.Stderr)}); err != nil {
				log.Fatal(err)
			}
			select {}
		},
		"sealmesh": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/*.txtar, one a verb or story. Beside the commands of
// testscript there are
//
//	code N CMD...          CMD ends with exit code N
//	waitfor FILE REGEXP    FILE has a line that matches, soon
//	eventually CMD...      CMD ends with exit code 0, soon
//	offline MESH ID        an agent's directory in MESH/agents, made without a control plane
//	chain FILE MESH ID MAY [ONWARD]   a root token of the mesh for an agent
//
// $NATS and $CONTROL are free addresses.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// Under the race detector every process would sleep a second at its end.
			e.Setenv("GORACE", "atexit_sleep_ms=10")
			for _, name := range []string{"NATS", "CONTROL"} {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				e.Setenv(name, l.Addr().String())
				if err := l.Close(); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "waitfor": waitfor, "eventually": eventually, "offline": offline, "chain": chain,
		},
	})
}

// soon bounds what a script waits for.
const soon = 20 * time.Second

const poll = 20 * time.Millisecond

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N CMD...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCode(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func exitCode(ts *testscript.TestScript, err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	ts.Check(err)
	return 0
}

func waitfor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var b []byte
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(poll) {
		if b, err = os.ReadFile(ts.MkAbs(args[0])); err == nil && re.Match(b) {
			return
		}
	}
	ts.Fatalf("%s does not match %q; it is:\n%s", args[0], args[1], b)
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually CMD...")
	}
	for end := time.Now().Add(soon); ; time.Sleep(poll) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still fails: %v", err)
		}
	}
}

func offline(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: offline MESH ID")
	}
	m, err := meshdir.Load(ts.MkAbs(args[0]))
	ts.Check(err)
	id, err := agentid.Parse(args[1])
	ts.Check(err)
	path := filepath.Join(m.Dir, "agents", id.String())
	keys, err := agentdir.NewKeys(path)
	ts.Check(err)
	key, err := keys.Key.PublicKey()
	ts.Check(err)
	curve, err := keys.Curve.PublicKey()
	ts.Check(err)
	records, err := m.RecordsKey()
	ts.Check(err)
	passport, err := capability.IssuePassport(records, id, key, curve, time.Now())
	ts.Check(err)
	ts.Check(agentdir.Write(path, agentdir.Info{
		Agent: id, Instance: agentid.InstanceOf(key), TrustDomain: m.Config.TrustDomain, Prefix: m.Config.Prefix, NATS: m.Config.NATS.URLs,
		Control: m.Config.Control.URL, Roots: m.Roots(), SigningKeys: m.SigningKeyCertificates(), Passport: passport,
	}))
}

func chain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || len(args) > 5 {
		ts.Fatalf("usage: chain FILE MESH ID MAY [ONWARD]")
	}
	m, err := meshdir.Load(ts.MkAbs(args[1]))
	ts.Check(err)
	tokens, err := m.TokensKey()
	ts.Check(err)
	id, err := agentid.Parse(args[2])
	ts.Check(err)
	may, err := capability.ParseScope(args[3])
	ts.Check(err)
	now := time.Now()
	r := capability.Root{Agent: id, Capabilities: []capability.Scope{may}, NotBefore: now.Add(-time.Minute), Expires: now.Add(time.Hour)}
	if len(args) == 5 {
		onward, err := capability.ParseScope(args[4])
		ts.Check(err)
		r.Delegatable, r.Depth = []capability.Scope{onward}, 2
	}
	text, err := capability.IssueRoot(tokens, r, now)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(fmt.Sprintln(text)), 0o600))
}
