package controlplane_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
