package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// mesh is "sealmesh up" in a process of its own, on a directory that goes away
// with it.
type mesh struct {
	binary string
	work   string // a temporary directory
	dir    string // the mesh directory in it
	up     *exec.Cmd
	log    bytes.Buffer // of up; read only once it has ended
}

// startMesh returns when agents can connect. An empty binary is built first.
func startMesh(ctx context.Context, binary string) (*mesh, error) {
	work, err := os.MkdirTemp("", "sealmesh-delegation-")
	if err != nil {
		return nil, err
	}
	m := &mesh{binary: binary, work: work, dir: filepath.Join(work, "mesh")}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	return m, nil
}

func (m *mesh) start(ctx context.Context) error {
	if m.binary == "" {
		m.binary = filepath.Join(m.work, "sealmesh")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", m.binary, "github.com/sealmesh/sealmesh/cmd/sealmesh").CombinedOutput(); err != nil {
			return fmt.Errorf("building sealmesh: %w\n%s", err, out)
		}
	}
	nats, err := freeAddress()
	if err != nil {
		return err
	}
	control, err := freeAddress()
	if err != nil {
		return err
	}
	m.up = exec.Command(m.binary, "up", "--mesh", m.dir, "--listen", nats, "--control-listen", control, "--json")
	m.up.Stderr = &m.log
	out, err := m.up.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.up.Start(); err != nil {
		m.up = nil
		return err
	}
	// It says so in one document when it is up, and in none if it fails.
	var doc struct{ Schema string }
	if err := json.NewDecoder(out).Decode(&doc); err != nil {
		return errors.New("the mesh did not come up")
	}
	return nil
}

// stop ends the mesh and removes its directory.
func (m *mesh) stop() (err error) {
	if m.up != nil {
		m.up.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended by itself, which Wait says
		late := time.AfterFunc(30*time.Second, func() { m.up.Process.Kill() })
		if err = m.up.Wait(); err != nil {
			err = fmt.Errorf("sealmesh up: %w\n%s", err, m.log.String())
		}
		late.Stop()
	}
	return errors.Join(err, os.RemoveAll(m.work))
}

// operator runs a command of the operator's.
func (m *mesh) operator(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, m.binary, append(args, "--mesh", m.dir)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sealmesh %v: %w\n%s", args, err, out)
	}
	return nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close() //nolint:errcheck // only its address was wanted
	return l.Addr().String(), nil
}
