package codec

import (
	"bufio"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"imping/codec"
)

// stock is liberasurecode in a process of its own: Python calls its C API (not PyECLib,
// which costs more), and a crash of it is not ours. A process serves one ec_type, as
// Debian's libisal slows down the SSE code of others in the same process.
type stock struct {
	cmd *exec.Cmd
	to  io.WriteCloser
	in  *bufio.Reader
}

//go:embed stock.py
var stockScript string

// stockIDs are the backends of Debian 12's liberasurecode.
var stockIDs = map[string]struct{ id, hd int }{
	"jerasure_rs_vand":       {1, 0},
	"jerasure_rs_cauchy":     {2, 0},
	"flat_xor_hd_3":          {3, 3},
	"flat_xor_hd_4":          {3, 4},
	"isa_l_rs_vand":          {4, 0},
	"liberasurecode_rs_vand": {6, 0},
	"isa_l_rs_cauchy":        {7, 0},
}

// startStock returns nil and why when there is no liberasurecode for the type.
func startStock(typ string) (*stock, error) {
	if _, ok := stockIDs[typ]; !ok {
		return nil, errors.New("it has no such type")
	}
	s := &stock{cmd: exec.Command("python3", "-c", stockScript)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.to, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	from, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.in = bufio.NewReader(from)
	var hello struct{ Error string }
	if err := s.ask(map[string]any{"do": "hello"}, &hello); err != nil {
		s.stop()
		return nil, err
	}
	if hello.Error != "" {
		s.stop()
		return nil, errors.New(hello.Error)
	}
	return s, nil
}

func (s *stock) ask(question, answer any) error {
	q, err := json.Marshal(question)
	if err != nil {
		return err
	}
	if _, err := s.to.Write(append(q, '\n')); err != nil {
		return err
	}
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("its process ended: %w", err)
	}
	return json.Unmarshal(line, answer)
}

func (s *stock) stop() {
	if s == nil {
		return
	}
	s.to.Close()
	_ = s.cmd.Wait() // it ends with its input
}

// prepare returns a window of rebuilding want, one fragment a call as the API has it. It
// has the survivors of the plan, but with flat_xor all there are: from fewer its results
// are wrong. It returns nil when liberasurecode refuses the scheme.
func (s *stock) prepare(scheme codec.Scheme, segment []byte, payloads [][]byte, plan, all, want []int, stream bool, arena int) (func(time.Duration) (int, time.Duration, error), error) {
	id := stockIDs[scheme.Type]
	use := plan
	if id.hd != 0 {
		use = all
	}
	var lost [][]byte
	for _, index := range want {
		lost = append(lost, payloads[index])
	}
	var ready struct {
		Refused bool
		Error   string
	}
	question := map[string]any{
		"do": "prepare", "id": id.id, "hd": id.hd, "k": scheme.K, "m": scheme.M,
		"segment": base64.StdEncoding.EncodeToString(segment), "use": use, "want": want, "lost": lost,
		"stripes": 1,
	}
	if stream {
		question["stripes"] = max(1, arena/(len(use)*stride(len(payloads[0]))))
	}
	if err := s.ask(question, &ready); err != nil {
		return nil, err
	}
	if ready.Refused {
		return nil, nil
	}
	if ready.Error != "" {
		return nil, errors.New(ready.Error)
	}
	return func(d time.Duration) (int, time.Duration, error) {
		var took struct {
			Stripes int
			Nanos   int64
			Error   string
		}
		if err := s.ask(map[string]any{"do": "window", "nanos": d.Nanoseconds()}, &took); err != nil {
			return 0, 0, err
		}
		if took.Error != "" {
			return 0, 0, errors.New(took.Error)
		}
		return took.Stripes, time.Duration(took.Nanos), nil
	}, nil
}
