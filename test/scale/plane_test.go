package scale_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// planeVariable makes this program a control plane of a mesh directory, so that
// what it costs is measured apart from the server and from those who beat.
const planeVariable = "SEALMESH_SCALE_PLANE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(planeVariable); dir != "" {
		if err := bePlane(dir); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

// usage is what the process of the control plane took so far.
type usage struct {
	CPU  time.Duration `json:"cpu"`
	Heap uint64        `json:"heap"` // live, in bytes
}

// bePlane answers each line on standard input with its usage, and ends with it.
func bePlane(dir string) error {
	mesh, err := meshdir.Load(dir)
	if err != nil {
		return err
	}
	p, err := controlplane.Start(context.Background(), controlplane.Config{Mesh: mesh, Log: zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)})
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	tell := func() error {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			return err
		}
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		return out.Encode(usage{time.Duration(r.Utime.Nano() + r.Stime.Nano()), mem.HeapAlloc})
	}
	for in := bufio.NewScanner(os.Stdin); ; {
		if err := tell(); err != nil {
			return err
		}
		if !in.Scan() {
			return p.Close()
		}
	}
}

// plane is a control plane in a process of its own.
type plane struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// startPlane returns one that is up, and what it took until then.
func startPlane(dir string) (*plane, usage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, usage{}, err
	}
	p := &plane{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), planeVariable+"="+dir)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, usage{}, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, usage{}, err
	}
	p.out = json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, usage{}, err
	}
	var u usage
	if err := p.out.Decode(&u); err != nil {
		return nil, usage{}, fmt.Errorf("the control plane did not start: %w", err)
	}
	return p, u, nil
}

func (p *plane) usage() (u usage, err error) {
	if _, err = io.WriteString(p.in, "\n"); err == nil {
		err = p.out.Decode(&u)
	}
	return u, err
}

func (p *plane) stop() error {
	if err := p.in.Close(); err != nil {
		return err
	}
	return p.cmd.Wait()
}
