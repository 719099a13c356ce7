package epochlog

import "github.com/sealmesh/sealmesh/registry"

// Parse reads a file, and says how much of it is whole lines.
func Parse(b []byte) (map[string]registry.Floor, int, error) {
	c, err := parse(b)
	return c.floors, c.good, err
}

// Line is how a record's floor is written.
func Line(key string, f registry.Floor) string { return string(appendLine(nil, key, f)) }
