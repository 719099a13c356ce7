package meshdir

import (
	"reflect"

	"github.com/sealmesh/sealmesh/internal/nearest"
)

// nearestKey returns the key of sealmesh.yaml that is at most two edits away from
// the misspelt one, or the empty string.
func nearestKey(key string) string { return nearest.Of(key, keys(reflect.TypeFor[Config]())) }

// keys lists the keys of a section and of those in it.
func keys(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		out = append(out, f.Tag.Get("yaml"))
		if inner := f.Type; inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct {
			out = append(out, keys(inner.Elem())...)
		} else if inner.Kind() == reflect.Struct {
			out = append(out, keys(inner)...)
		}
	}
	return out
}
