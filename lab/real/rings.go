package real

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
)

//go:embed rings.py
var ringsPython string

type ringDevice struct {
	ID              int     `json:"id"`
	Region          int     `json:"region"`
	Zone            int     `json:"zone"`
	Weight          float64 `json:"weight"`
	IP              string  `json:"ip"`
	Port            int     `json:"port"`
	ReplicationIP   string  `json:"replication_ip"`
	ReplicationPort int     `json:"replication_port"`
	Device          string  `json:"device"`
	Meta            string  `json:"meta"`
}

type ringWanted struct {
	Path      string       `json:"path"` // without .ring.gz
	PartPower int          `json:"part_power"`
	Replicas  int          `json:"replicas"`
	Devices   []ringDevice `json:"devices"`
}

// buildRings makes all rings in one run of Swift's own builder. The same options give
// the same rings.
func (c *Cluster) buildRings(ctx context.Context) error {
	var wanted []ringWanted
	for name, port := range map[string]int{"account": accountPort, "container": containerPort} {
		wanted = append(wanted, ringWanted{filepath.Join(c.etc(), name), c.opts.PartPower, 1, []ringDevice{{
			Region: 1, Zone: 1, Weight: 100, IP: "127.0.0.1", Port: port,
			ReplicationIP: "127.0.0.1", ReplicationPort: port, Device: databasesDevice}}})
	}
	var devices []ringDevice
	for n := 1; n <= c.opts.Nodes; n++ {
		for _, d := range c.Devices(n) {
			devices = append(devices, ringDevice{
				ID: len(devices), Region: 1, Zone: n, Weight: 100, Device: d,
				IP: nodeIP(n), Port: clientPort(n),
				ReplicationIP: nodeIP(n), ReplicationPort: replicationPort(n)})
		}
	}
	for _, p := range c.opts.Policies {
		name := "object"
		if p.Index > 0 {
			name = fmt.Sprintf("object-%d", p.Index)
		}
		wanted = append(wanted, ringWanted{filepath.Join(c.etc(), name), c.opts.PartPower, p.replicas(), devices})
	}
	question, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("cannot describe the rings: %w", err)
	}
	cmd := exec.CommandContext(ctx, Python, "-P", "-c", ringsPython)
	cmd.Stdin = bytes.NewReader(question)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the rings: %w\n%s", err, out)
	}
	return nil
}
