package epochlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// header is the first line of a log.
const header = "sealmesh.epochs/v1\n"

// sumBytes is how much of the SHA-256 of its text a line carries. It tells what a
// disk or an editor changed; whoever means to change it can read the keys of the
// mesh in the same folder.
const sumBytes = 8

const (
	lineMost   = 256
	statusMost = 16
	// unknown stands in place of a status that is empty.
	unknown = "-"
)

var errLine = errors.New("not a line of the log")

// appendLine writes a record's floor: key, epoch, revision, status and checksum.
func appendLine(b []byte, key string, f registry.Floor) []byte {
	status := f.Status
	if status == "" {
		status = unknown
	}
	at := len(b)
	b = fmt.Appendf(b, "%s %d %d %s", key, f.Epoch, f.Revision, status)
	sum := sha256.Sum256(b[at:])
	b = append(b, ' ')
	b = hex.AppendEncode(b, sum[:sumBytes])
	return append(b, '\n')
}

// parseLine reads what appendLine wrote, without the line break, and nothing else.
func parseLine(line []byte) (key string, f registry.Floor, err error) {
	if len(line) > lineMost {
		return "", f, errLine
	}
	parts := strings.Split(string(line), " ")
	if len(parts) != 5 || !validKey(parts[0]) || !validStatus(parts[3]) {
		return "", f, errLine
	}
	epoch, err1 := strconv.ParseUint(parts[1], 10, 64)
	revision, err2 := strconv.ParseUint(parts[2], 10, 64)
	if err1 != nil || err2 != nil {
		return "", f, errLine
	}
	f = registry.Floor{Epoch: epoch, Revision: revision, Status: parts[3]}
	if f.Status == unknown {
		f.Status = ""
	}
	if again := appendLine(nil, parts[0], f); !bytes.Equal(again[:len(again)-1], line) {
		return "", f, errLine
	}
	return parts[0], f, nil
}

// reads reports whether a line that appendLine wrote can be read.
func reads(line []byte) bool {
	_, _, err := parseLine(line[:len(line)-1])
	return err == nil
}

// validKey takes the keys of the registry that have a floor.
func validKey(key string) bool {
	if key == registry.TickKey || key == registry.TopicsKey {
		return true
	}
	name, tail, isInstance := strings.Cut(key, ".")
	_, err := agentid.Parse(name)
	if err == nil && isInstance {
		_, err = agentid.ParseInstance(tail)
	}
	return err == nil
}

func validStatus(s string) bool {
	return s == unknown || s != "" && len(s) <= statusMost && !strings.ContainsFunc(s, func(r rune) bool { return r < 'a' || r > 'z' })
}

// content is what a file holds.
type content struct {
	floors map[string]registry.Floor
	lines  int
	good   int // bytes up to the end of the last whole line
}

// parse reads a file. What follows the last line break is what a crash left of a
// line, and so are zeros, which a file system may leave where it had promised
// room and did not get to write; nothing else may be wrong.
func parse(b []byte) (content, error) {
	c := content{floors: map[string]registry.Floor{}}
	if !bytes.HasPrefix(b, []byte(header)) {
		return c, &lineError{1, errors.New("is no log of epochs")}
	}
	c.good = len(header)
	for {
		line, _, whole := bytes.Cut(b[c.good:], []byte("\n"))
		if !whole || len(bytes.Trim(b[c.good:], "\x00")) == 0 {
			return c, nil
		}
		key, f, err := parseLine(line)
		if err != nil {
			return c, &lineError{c.lines + 2, errors.New("does not match its checksum, or is none of this log")}
		}
		c.floors[key] = c.floors[key].Over(key, f)
		c.lines++
		c.good += len(line) + 1
	}
}

// lineError names what cannot be read.
type lineError struct {
	line int
	error
}
