// Oracle checks what Talos wrote with golang.org/x/mod/sumdb/{note,tlog}, which knows nothing of Talos.
//
//	oracle EXPORT [CLAIMS.json]
//
// It opens the checkpoint, computes the tree from the exported entries, makes proofs of its own, and compares them with
// the claims, byte for byte. It prints what it did as JSON; whatever is wrong ends it with status 1.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type manifest struct {
	VKeys []string `json:"vkeys"`
	Size  int64    `json:"size"`
}

type claims struct {
	Records []struct {
		Index int64    `json:"index"`
		Size  int64    `json:"size"`
		Path  []string `json:"path"`
	} `json:"records"`
	Trees []struct {
		Old  int64    `json:"old"`
		New  int64    `json:"new"`
		Path []string `json:"path"`
	} `json:"trees"`
	Files []string `json:"files"`
}

type report struct {
	Entries int64 `json:"entries"`
	Tiles   int   `json:"tiles"`
	Records int   `json:"records"`
	Trees   int   `json:"trees"`
	Files   int   `json:"files"`
}

// hashes is a log of stored hashes in memory.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(h)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		found[i] = h[index]
	}
	return found, nil
}

// tiles serves the same hashes the way a log's server does.
type tiles struct {
	stored hashes
	read   int
}

func (t *tiles) Height() int                     { return 8 }
func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(wanted))
	for i, tile := range wanted {
		data, err := tlog.ReadTileData(tile, t.stored)
		if err != nil {
			return nil, err
		}
		found[i] = data
		t.read++
	}
	return found, nil
}

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: oracle EXPORT [CLAIMS.json]"))
	}
	done, err := check(os.Args[1], os.Args[2:])
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(done); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "oracle:", err)
	os.Exit(1)
}

func check(directory string, files []string) (report, error) {
	var done report
	var about manifest
	if err := readJSON(filepath.Join(directory, "manifest.json"), &about); err != nil {
		return done, err
	}
	verifiers, err := verifiersOf(about.VKeys)
	if err != nil {
		return done, err
	}
	text, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	if err != nil {
		return done, err
	}
	tree, err := openCheckpoint(text, verifiers)
	if err != nil {
		return done, err
	}
	records, err := readEntries(directory, tree.N)
	if err != nil {
		return done, err
	}
	var stored hashes
	for n, record := range records {
		more, err := tlog.StoredHashes(int64(n), record, stored)
		if err != nil {
			return done, err
		}
		stored = append(stored, more...)
	}
	root, err := tlog.TreeHash(tree.N, stored)
	if err != nil {
		return done, err
	}
	if root != tree.Hash {
		return done, fmt.Errorf("the entries have root %v, the checkpoint says %v", root, tree.Hash)
	}
	done.Entries = tree.N
	server := &tiles{stored: stored}
	if err := sample(tree, tlog.TileHashReader(tree, server), records); err != nil {
		return done, err
	}
	done.Tiles = server.read
	for _, name := range files {
		if err := checkClaims(name, tree, stored, records, verifiers, &done); err != nil {
			return done, err
		}
	}
	return done, nil
}

// sample proves a few records through tiles, each of which is checked against the tree.
func sample(tree tlog.Tree, reader tlog.HashReader, records [][]byte) error {
	for _, index := range []int64{0, 1, 255, 256, tree.N / 2, tree.N - 1} {
		if index >= tree.N {
			continue
		}
		proof, err := tlog.ProveRecord(tree.N, index, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(records[index])); err != nil {
			return err
		}
	}
	return nil
}

func checkClaims(name string, tree tlog.Tree, stored hashes, records [][]byte, verifiers note.Verifiers, done *report) error {
	var claimed claims
	if err := readJSON(name, &claimed); err != nil {
		return err
	}
	for _, one := range claimed.Records {
		ours, err := tlog.ProveRecord(one.Size, one.Index, stored)
		if err != nil {
			return err
		}
		theirs, err := decodePath(one.Path)
		if err != nil {
			return err
		}
		root, err := tlog.TreeHash(one.Size, stored)
		if err != nil {
			return err
		}
		if !equal(ours, theirs) {
			return fmt.Errorf("the proof of record %d in %d is another", one.Index, one.Size)
		}
		leaf := tlog.RecordHash(records[one.Index])
		if err := tlog.CheckRecord(tlog.RecordProof(theirs), one.Size, root, one.Index, leaf); err != nil {
			return err
		}
		done.Records++
	}
	for _, one := range claimed.Trees {
		ours, err := tlog.ProveTree(one.New, one.Old, stored)
		if err != nil {
			return err
		}
		theirs, err := decodePath(one.Path)
		if err != nil {
			return err
		}
		if !equal(ours, theirs) {
			return fmt.Errorf("the proof from %d to %d is another", one.Old, one.New)
		}
		before, err := tlog.TreeHash(one.Old, stored)
		if err != nil {
			return err
		}
		after, err := tlog.TreeHash(one.New, stored)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(tlog.TreeProof(theirs), one.New, after, one.Old, before); err != nil {
			return err
		}
		done.Trees++
	}
	for _, file := range claimed.Files {
		if err := checkProofFile(file, verifiers); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		done.Files++
	}
	return nil
}

// checkProofFile checks a .tlog-proof file with nothing but the keys.
func checkProofFile(name string, verifiers note.Verifiers) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	head, checkpoint, found := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("no proof file")
	}
	entry, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	path, err := decodePath(lines[3:])
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(checkpoint, verifiers)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(tlog.RecordProof(path), tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

func verifiersOf(vkeys []string) (note.Verifiers, error) {
	var known []note.Verifier
	for _, vkey := range vkeys {
		verifier, err := note.NewVerifier(vkey)
		if err != nil {
			return nil, err
		}
		known = append(known, verifier)
	}
	return note.VerifierList(known...), nil
}

func openCheckpoint(text []byte, verifiers note.Verifiers) (tlog.Tree, error) {
	opened, err := note.Open(text, verifiers)
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != opened.Sigs[0].Name {
		return tlog.Tree{}, errors.New("no checkpoint, or signed under another name")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// readEntries reads the entry bundles of C2SP tlog-tiles: 256 records each, u16 length before each.
func readEntries(directory string, size int64) ([][]byte, error) {
	var records [][]byte
	for n := int64(0); n*256 < size; n++ {
		name := tilePath(n)
		if width := size - n*256; width < 256 {
			name += fmt.Sprintf(".p/%d", width)
		}
		data, err := os.ReadFile(filepath.Join(directory, "tile", "entries", name))
		if err != nil {
			return nil, err
		}
		for len(data) >= 2 {
			length := int(binary.BigEndian.Uint16(data))
			if len(data) < 2+length {
				return nil, fmt.Errorf("bundle %d is cut short", n)
			}
			records, data = append(records, data[2:2+length]), data[2+length:]
		}
		if len(data) != 0 || int64(len(records)) != min(size, (n+1)*256) {
			return nil, fmt.Errorf("bundle %d has another number of entries", n)
		}
	}
	return records, nil
}

func tilePath(n int64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	return path
}

func decodePath(lines []string) ([]tlog.Hash, error) {
	var path []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		path = append(path, hash)
	}
	return path, nil
}

func equal[P ~[]tlog.Hash](ours P, theirs []tlog.Hash) bool {
	if len(ours) != len(theirs) {
		return false
	}
	for i := range ours {
		if ours[i] != theirs[i] {
			return false
		}
	}
	return true
}

func readJSON(name string, into any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
