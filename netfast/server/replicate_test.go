package server

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/swift/suffix"
)

// REPLICATE answers what stock's server answers on the same disk: as a pickle of the same
// meaning (rule 25).
func TestHashesAreThoseOfSwift(t *testing.T) {
	t.Parallel()
	b := startBoth(t, nil)
	b.objects()
	r := rand.New(rand.NewPCG(3, 4))
	times := []string{t1, t2, t3, t4, t2 + "_0000000000000001"}
	at := func() string { return times[r.IntN(len(times))] }
	for i := range 60 {
		name := "/a/c/random" + strconv.Itoa(i)
		policy := r.IntN(2)
		dir := hashDir(testSwift().Policies[policy], 7+r.IntN(2), name)
		for range 1 + r.IntN(4) {
			at, index := at(), r.IntN(6)
			meta := metadata(name, at, []byte("x"))
			file := at + ".data"
			switch kind := r.IntN(6); {
			case kind == 0:
				file = at + ".ts"
			case kind == 1:
				file = at + ".meta"
			case policy == 1 && kind == 2:
				file = fmt.Sprintf("%s#%d.data", at, index)
			case policy == 1:
				file = fmt.Sprintf("%s#%d#d.data", at, index)
			}
			b.write(filepath.Join(dir, file), []byte("x"), meta)
		}
	}
	hashes := func(target string, policy int) {
		t.Helper()
		stock, ours := b.ask("REPLICATE", target, "X-Backend-Storage-Policy-Index: "+strconv.Itoa(policy))
		var decoded [2]suffix.Hashes
		for i, a := range []*reply{&stock, &ours} {
			if a.Status == "200 OK" {
				var err error
				if decoded[i], err = suffix.Decode([]byte(a.Body)); err != nil {
					t.Fatal(err)
				}
				if a.Body[:2] != "\x80\x02" {
					t.Errorf("%q is no pickle of protocol 2", a.Body)
				}
			}
			a.Body = strconv.FormatBool(decoded[i] == nil)
			delete(a.Header, "Content-Length") // with memos or without
		}
		same(t, target, stock, ours)
		if d := cmp.Diff(decoded[0], decoded[1]); d != "" {
			t.Errorf("%s policy %d: hashes differ (-stock +ours):\n%s", target, policy, d)
		}
		b.sameTrees()
	}
	for policy := range 2 {
		hashes("/sda/7", policy)
		hashes("/sda/8", policy)
		hashes("/sda/8", policy) // out of hashes.pkl
		hashes("/sda/9", policy) // is not there and is not made
		hashes("/sda/8/", policy)
		hashes("/sda/8/abc-def-xyz--ABC", policy) // marks two for being hashed anew
		hashes("/sda/8/nonsense", policy)
		hashes("/sda/10/abc", policy) // is made by that
		hashes("/sda/8", policy)
		hashes("/sdb/8", policy)
		hashes("/sdb/8/abc", policy)
	}
	// Only what says so is gone without it.
	s := ours(t, b.roots[1], map[string]string{"replication_server": "no"})
	if a := ask(t, s.addr, "REPLICATE", "/sda/8"); !strings.HasPrefix(a.Status, "405") {
		t.Errorf("REPLICATE of a server that is for clients: %s", a.Status)
	}
	if a := ask(t, s.addr, "OPTIONS", "/"); strings.Contains(a.Header["Allow"], "REPLICATE") {
		t.Errorf("it says that it allows %s", a.Header["Allow"])
	}
}
