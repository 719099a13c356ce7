//go:build unix

package kill_test

import (
	"os"
	"testing"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

var programs process.Programs

func TestMain(m *testing.M) {
	os.Exit(process.Main(m, &programs, process.Sealmesh))
}
