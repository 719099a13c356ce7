package controlplane_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// An agent elsewhere, whom nobody tells of a new root, follows the old one's word and
// keeps what it says: its directory pins the new root alone, and started again from it
// the agent comes to terms with a mesh that gives the word to nobody any more.
func TestRootKept(t *testing.T) {
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
	next, err := k.Dir.RotateRoot(meshdir.KeyChange{})
	if err != nil {
		t.Fatal(err)
	}
	k.until("new root elsewhere", func() error {
		d, err := agentdir.Open(dir)
		if err == nil && !slices.Equal(d.Info.Roots, []string{next}) {
			err = errors.New("still the old one")
		}
		return err
	})
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Dir.FinishSigningKeys(); err != nil {
		t.Fatal(err)
	}
	if far, err = k.Connect(k.ctx, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	k.calls(far)
}
