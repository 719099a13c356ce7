package meshdir

import (
	"reflect"
	"slices"
)

// nearest returns the key of sealmesh.yaml that is at most two edits away from
// the misspelt one, or the empty string.
func nearest(key string) string {
	best, least := "", 3
	for _, k := range keys(reflect.TypeFor[Config]()) {
		if d := distance(key, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// keys lists the keys of a section and of those in it.
func keys(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		out = append(out, f.Tag.Get("yaml"))
		if f.Type.Kind() == reflect.Struct {
			out = append(out, keys(f.Type)...)
		}
	}
	return out
}

// distance is Levenshtein's. A key much longer than any is not measured.
func distance(a, b string) int {
	if len(a) > 2*len(b)+2 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above[j+1]+1, row[j]+1, above[j]+cost)
		}
	}
	return row[len(b)]
}
