// Command generate writes the test vectors of the envelope. Its output depends on
// nothing but itself: keys come from labelled seeds, times and IDs are fixed, and
// messages are encoded and signed here, without the packages that the vectors are
// for.
//
//	go run ./test/vectors/envelope/generate [-to DIR]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	to := flag.String("to", filepath.FromSlash("test/vectors/envelope"), "directory to write to")
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
	b.headers()
	b.fields()
	b.signedBytes()
	b.signatures()
	b.curve()
	b.application()
	b.limits()
	b.subjects()
	b.times()
	b.standing()
	b.authority()
	b.nonces()
	b.streams()
	b.bodies()
	b.stored()
	b.order()
	return b
}
