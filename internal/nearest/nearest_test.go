package nearest_test

import (
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/internal/nearest"
)

func TestOf(t *testing.T) {
	words := []string{"handle", "call", "publish", "subscribe"}
	for _, tt := range []struct{ word, want string }{
		{"handle", "handle"}, {"hanlde", "handle"}, {"handel", "handle"}, {"cal", "call"}, {"Call", "call"}, {"calls", "call"},
		{"publsh", "publish"}, {"", ""}, {"xyz", ""}, {"subscriptions", ""}, {strings.Repeat("call", 1000), ""},
	} {
		if got := nearest.Of(tt.word, words); got != tt.want {
			t.Errorf("got %q for %.20q, want %q", got, tt.word, tt.want)
		}
	}
	if got := nearest.Of("call", nil); got != "" {
		t.Errorf("got %q of no words", got)
	}
}
