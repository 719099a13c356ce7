// Command generate writes the test vectors of sealed payloads. Its output depends
// on nothing but itself: keys and what would be random come from labels, and HPKE
// is done here by RFC 9180, without the package that the vectors are for and
// without the library that it uses.
//
//	go run ./test/vectors/sealed/generate [-to DIR]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	to := flag.String("to", filepath.FromSlash("test/vectors/sealed"), "directory to write to")
	flag.Parse()
	if err := run(*to); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run replaces all vectors below dir.
func run(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for path, text := range all().files() {
		path = filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// all makes every vector.
func all() *book {
	b := new(book)
	b.valid()
	b.layout()
	b.recipients()
	b.bindings()
	b.wrapping()
	b.content()
	return b
}
