package natstest

import (
	"net"
	"testing"
)

// FreeAddrs returns loopback addresses that nobody listens on. Where the server
// can choose a port itself (port -1) let it: between this call and the server's
// start another program may take one of these.
func FreeAddrs(t testing.TB, n int) []string {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // all stay open until the last is chosen
		addrs[i] = l.Addr().String()
	}
	return addrs
}
