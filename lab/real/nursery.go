package real

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
)

//go:embed nursery.py
var nurseryPython string

// startTogether starts Swift servers that share one import of Swift, which makes a
// cluster's start several times faster.
func startTogether(ctx context.Context, servers []*server) error {
	type wanted struct {
		Argv   []string `json:"argv"`
		Output string   `json:"output"`
		UID    uint32   `json:"uid"`
		GID    uint32   `json:"gid"`
	}
	var question []wanted
	for _, s := range servers {
		question = append(question, wanted{s.argv, s.output, s.credential.Uid, s.credential.Gid})
	}
	in, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("cannot describe the servers: %w", err)
	}
	cmd := exec.CommandContext(ctx, Python, "-P", "-c", nurseryPython)
	cmd.Stdin = bytes.NewReader(in)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot start the servers: %w\n%s", err, errOut.Bytes())
	}
	var pids []int
	if err := json.Unmarshal(out.Bytes(), &pids); err != nil || len(pids) != len(servers) {
		return fmt.Errorf("cannot read which servers were started: %q", out.Bytes())
	}
	for i, s := range servers {
		if err := s.adopt(pids[i]); err != nil {
			return err
		}
	}
	return nil
}
