// Command generate writes the test vectors of capability chains. Its output
// depends on nothing but itself: keys come from labelled seeds, times are fixed,
// and the documents are encoded and signed here, without the packages that the
// vectors are for.
//
//	go run ./test/vectors/capability/generate [-to DIR]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	to := flag.String("to", filepath.FromSlash("test/vectors/capability"), "directory to write to")
	flag.Parse()
	if err := write(*to, all().files()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// write replaces all vectors below dir.
func write(dir string, files map[string][]byte) error {
	old, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for path, text := range files {
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
	b.documents()
	b.integers()
	b.scopes()
	b.signingKeys()
	b.passports()
	b.tokens()
	b.chains()
	b.window()
	b.signatures()
	b.order()
	b.standing()
	return b
}
