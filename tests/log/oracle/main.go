// The oracle: what the field's own modules make of trees, notes, tiles and cosignatures. One JSON request a line, one answer a line.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type request struct {
	Op      string     `json:"op"`
	Entries [][]byte   `json:"entries"`
	Size    int64      `json:"size"`
	OldSize int64      `json:"old_size"`
	Index   int64      `json:"index"`
	Leaf    []byte     `json:"leaf"`
	Root    []byte     `json:"root"`
	OldRoot []byte     `json:"old_root"`
	Proof   [][]byte   `json:"proof"`
	Message string     `json:"message"`
	Keys    []string   `json:"keys"`
	Seed    []byte     `json:"seed"`
	Name    string     `json:"name"`
	Tiles   [][3]int64 `json:"tiles"`
	URL     string     `json:"url"`
	Token   string     `json:"token"`
}

type answer struct {
	Error       string     `json:"error,omitempty"`
	Roots       [][]byte   `json:"roots,omitempty"`
	Inclusion   [][][]byte `json:"inclusion,omitempty"`
	Consistency [][][]byte `json:"consistency,omitempty"`
	Text        string     `json:"text,omitempty"`
	Message     string     `json:"message,omitempty"`
	Key         string     `json:"key,omitempty"`
	Paths       []string   `json:"paths,omitempty"`
	Entries     [][]byte   `json:"entries,omitempty"`
	Time        int64      `json:"time,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked request
		err := json.Unmarshal(lines.Bytes(), &asked)
		var found answer
		if err == nil {
			found, err = answerTo(asked)
		}
		if err != nil {
			found.Error = err.Error()
		}
		if err := out.Encode(found); err != nil {
			panic(err)
		}
	}
}

func answerTo(asked request) (answer, error) {
	switch asked.Op {
	case "tree":
		return tree(asked)
	case "check_record":
		var leaf tlog.Hash
		copy(leaf[:], asked.Leaf)
		return answer{}, tlog.CheckRecord(hashes(asked.Proof), asked.Size, hash(asked.Root), asked.Index, leaf)
	case "check_tree":
		return answer{}, tlog.CheckTree(hashes(asked.Proof), asked.Size, hash(asked.Root), asked.OldSize, hash(asked.OldRoot))
	case "open":
		return open(asked)
	case "sign":
		return sign(asked)
	case "cosign":
		return cosign(asked)
	case "verify_cosignature":
		return verifyCosignature(asked)
	case "paths":
		var found answer
		for _, t := range asked.Tiles {
			found.Paths = append(found.Paths, torchwood.TilePath(tlog.Tile{H: torchwood.TileHeight, L: int(t[0]), N: t[1], W: int(t[2])}))
		}
		return found, nil
	case "follow":
		return follow(asked)
	}
	return answer{}, fmt.Errorf("no operation %q", asked.Op)
}

func hash(raw []byte) (h tlog.Hash) {
	copy(h[:], raw)
	return h
}

func hashes(raw [][]byte) (found []tlog.Hash) {
	for _, each := range raw {
		found = append(found, hash(each))
	}
	return found
}

func raw(found []tlog.Hash) [][]byte {
	out := [][]byte{}
	for _, each := range found {
		out = append(out, append([]byte{}, each[:]...))
	}
	return out
}

// tree returns all roots up to a size, and for that size all proofs of inclusion and of consistency.
func tree(asked request) (found answer, err error) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var read []tlog.Hash
		for _, index := range indexes {
			read = append(read, stored[index])
		}
		return read, nil
	})
	for n, entry := range asked.Entries {
		more, err := tlog.StoredHashes(int64(n), entry, reader)
		if err != nil {
			return found, err
		}
		stored = append(stored, more...)
		root, err := tlog.TreeHash(int64(n)+1, reader)
		if err != nil {
			return found, err
		}
		found.Roots = append(found.Roots, root[:])
	}
	size := int64(len(asked.Entries))
	for n := int64(0); n < size; n++ {
		inclusion, err := tlog.ProveRecord(size, n, reader)
		if err != nil {
			return found, err
		}
		consistency, err := tlog.ProveTree(size, n+1, reader)
		if err != nil {
			return found, err
		}
		found.Inclusion = append(found.Inclusion, raw(inclusion))
		found.Consistency = append(found.Consistency, raw(consistency))
	}
	return found, nil
}

func open(asked request) (answer, error) {
	var verifiers []note.Verifier
	for _, key := range asked.Keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return answer{}, err
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open([]byte(asked.Message), note.VerifierList(verifiers...))
	if err != nil {
		return answer{}, err
	}
	checkpoint, err := torchwood.ParseCheckpoint(opened.Text)
	if err != nil {
		return answer{}, err
	}
	return answer{Text: checkpoint.String()}, nil
}

func sign(asked request) (answer, error) {
	key := ed25519.NewKeyFromSeed(asked.Seed)
	verifier, err := note.NewEd25519VerifierKey(asked.Name, key.Public().(ed25519.PublicKey))
	if err != nil {
		return answer{}, err
	}
	secret := append([]byte{1}, asked.Seed...)
	parts := strings.Split(verifier, "+")
	signer, err := note.NewSigner("PRIVATE+KEY+" + asked.Name + "+" + parts[1] + "+" + base64.StdEncoding.EncodeToString(secret))
	if err != nil {
		return answer{}, err
	}
	signed, err := note.Sign(&note.Note{Text: asked.Message}, signer)
	return answer{Message: string(signed), Key: verifier}, err
}

func cosign(asked request) (answer, error) {
	signer, err := torchwood.NewCosignatureSigner(asked.Name, ed25519.NewKeyFromSeed(asked.Seed))
	if err != nil {
		return answer{}, err
	}
	signed, err := note.Sign(&note.Note{Text: asked.Message}, signer)
	return answer{Message: string(signed), Key: signer.Verifier().String()}, err
}

func verifyCosignature(asked request) (answer, error) {
	signer, err := torchwood.NewCosignatureSigner(asked.Name, ed25519.NewKeyFromSeed(asked.Seed))
	if err != nil {
		return answer{}, err
	}
	opened, err := note.Open([]byte(asked.Message), note.VerifierList(signer.Verifier()))
	if err != nil {
		return answer{}, err
	}
	at, err := torchwood.CosignatureTimestamp(opened.Sigs[0])
	return answer{Text: opened.Text, Time: at}, err
}

type withToken struct{ token string }

func (t withToken) RoundTrip(asked *http.Request) (*http.Response, error) {
	asked = asked.Clone(asked.Context())
	asked.Header.Set("Authorization", "Bearer "+t.token)
	return http.DefaultTransport.RoundTrip(asked)
}

// follow reads a whole log as any client of tlog-tiles does, and verifies every entry against the signed checkpoint.
func follow(asked request) (found answer, err error) {
	ctx := context.Background()
	fetcher, err := torchwood.NewTileFetcher(asked.URL, torchwood.WithHTTPClient(&http.Client{Transport: withToken{asked.Token}}))
	if err != nil {
		return found, err
	}
	message, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return found, err
	}
	asked.Message = string(message)
	opened, err := open(asked)
	if err != nil {
		return found, err
	}
	checkpoint, err := torchwood.ParseCheckpoint(opened.Text)
	if err != nil {
		return found, err
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		return found, err
	}
	// Entries may stop before a bundle that is not full yet, and goes on from there when it is asked again
	for at := int64(0); at < checkpoint.N; at = int64(len(found.Entries)) {
		for _, entry := range client.Entries(ctx, checkpoint.Tree, at) {
			found.Entries = append(found.Entries, append([]byte{}, entry...))
		}
		if client.Err() != nil || at == int64(len(found.Entries)) {
			return found, fmt.Errorf("stopped at entry %d: %v", len(found.Entries), client.Err())
		}
	}
	found.Message, found.Text = string(message), opened.Text
	return found, nil
}
