//go:build unix

package stock_test

import (
	"os"
	"testing"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

var programs process.Programs

func TestMain(m *testing.M) {
	os.Exit(process.Main(m, &programs, process.Sealmesh, process.NATSServer))
}
