package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
)

// A call is answered by whoever handles its scope, and both sides know who the
// other one is.
func ExampleMesh_Call() {
	t := newExample() // in a test: its *testing.T
	defer t.end()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))

	err := reader.Handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		return fmt.Appendf(nil, "%s may read %s", req.From, req.Data), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := asker.Call(ctx, "read:logs", []byte("app.log"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", reply.From, reply.Data)
	// Output: reader: asker may read app.log
}

// What an agent does not hold is refused, with a reason, until somebody who holds
// it and may pass it on lends it.
func ExampleMesh_Delegate() {
	t := newExample() // in a test: its *testing.T
	defer t.end()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	boss := m.Agent("boss", meshtest.Calls("read:logs"), meshtest.MayDelegate("read:logs"))
	temp := m.Agent("temp")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	if err := reader.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) {
		return []byte("all is well"), nil
	}); err != nil {
		fmt.Println(err)
		return
	}
	_, err := temp.Call(ctx, "read:logs", nil)
	var d *meshclient.Denied
	if errors.As(err, &d) {
		fmt.Println("refused:", d.Reason)
	}

	lent, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lent.End(ctx)
	reply, err := temp.Call(ctx, "read:logs", nil)
	for errors.Is(err, denial.ScopeNotHeld) { // the delegation is on its way
		time.Sleep(10 * time.Millisecond)
		reply, err = temp.Call(ctx, "read:logs", nil)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", reply.From, reply.Data)
	// Output:
	// refused: scope-not-held
	// reader: all is well
}

// A handler's own errors stay at home; what it returns as an Error reaches the
// caller.
func ExampleError() {
	t := newExample() // in a test: its *testing.T
	defer t.end()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		if string(req.Data) == "app.log" {
			return nil, errors.New("/var/lib/app: permission denied")
		}
		return nil, &meshclient.Error{Code: meshclient.CodeNotFound, Message: "no such log"}
	}); err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := asker.Call(ctx, "read:logs", []byte("app.log"))
	fmt.Println(err)
	_, err = asker.Call(ctx, "read:logs", []byte("other.log"))
	fmt.Println(err)
	// Output:
	// internal
	// not-found: no such log
}

// example is the part of a *testing.T that meshtest needs: an example has none.
type example struct {
	testing.TB
	cleanups []func()
}

func newExample() *example { return &example{} }

func (e *example) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}

func (e *example) Helper()          {}
func (e *example) Name() string     { return "Example" }
func (e *example) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }

func (e *example) TempDir() string {
	dir, err := os.MkdirTemp("", "meshclient-example-")
	if err != nil {
		panic(err)
	}
	e.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (e *example) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (e *example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
