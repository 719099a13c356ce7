package meshdir_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// However fast one change follows on another, and whatever the clock says, a new
// certificate is signed later than all before it: readers tell an older list by that.
func TestListsHaveAnOrder(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	at := time.Now()
	ring := func() *capability.Keyring {
		r, err := m.Ring()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := ring()
	for _, c := range []struct {
		name   string
		change func() error
	}{
		{"another while", func() error { return m.ChangeSigningKeys(meshdir.KeyChange{Now: at}) }},
		{"a clock that went back", func() error {
			return m.ChangeSigningKeys(meshdir.KeyChange{Now: at.Add(-time.Hour), New: []capability.Purpose{capability.ForTokens}})
		}},
		{"another root", func() error {
			_, err := m.RotateRoot(meshdir.KeyChange{Now: at})
			return err
		}},
	} {
		if err := c.change(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		after := ring()
		if !after.Issued().After(before.Issued()) {
			t.Errorf("%s: the newest certificate is of %s, and was of %s before", c.name, after.Issued(), before.Issued())
		}
		if slices.Equal(after.Certificates(), before.Certificates()) || !before.Older(after) || after.Older(before) {
			t.Errorf("%s: the lists have no order", c.name)
		}
		before = after
	}
}
